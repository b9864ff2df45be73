#include "restorer.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <thread>

#include "choice.hpp"
#include "guard.hpp"
#include "png.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

// What a backend's rounding may add to a precision's verified error before it counts as wrong, and
// a quality that is enough whatever was verified.
constexpr double kToleratedDb = 3;
constexpr double kEnoughDb = 50;

void check_pixels(const elir_image& image, const char* what) {
  if (image.data == nullptr) throw image_error("the ", what, " has no data: it is NULL");
  if (image.width < 1 || image.height < 1) {
    throw image_error("the ", what, " is ", image.width, "x", image.height,
                      ", expected at least 1x1");
  }
  const std::int64_t row = std::int64_t{3} * image.width;
  if (image.stride != 0 && image.stride < row && image.stride > -row) {
    throw image_error("the ", what, " has a stride of ", image.stride, " bytes, expected at least ",
                      row, " for ", image.width, " pixels");
  }
  // The way from the first row to behind the last one is a number.
  const std::int64_t most = PTRDIFF_MAX / image.height;
  const std::int64_t stride = image.stride == 0 ? row : image.stride;
  if (stride > most || stride < -most) {
    throw image_error("the ", what, " has rows of ", stride, " bytes, expected at most ", most,
                      " for ", image.height, " rows");
  }
  int format = 0;  // by its bytes: the caller's enum may hold none of its values
  std::memcpy(&format, &image.format, sizeof format);
  if (format != ELIR_RGB8 && format != ELIR_BGR8) {
    throw image_error("the ", what, " has format ", format, ", expected ELIR_RGB8 or ELIR_BGR8");
  }
}

void check_place(const elir_image& image, const char* what, const std::string& backend) {
  int memory = 0;
  std::memcpy(&memory, &image.memory, sizeof memory);
  if (memory == ELIR_MEMORY_CUDA) {
    throw unavailable_error("the ", what, " is in CUDA memory, and ", backend,
                            " takes images in host memory only: copy it there");
  }
  if (memory != ELIR_MEMORY_HOST) {
    throw image_error("the ", what, " has memory ", memory,
                      ", expected ELIR_MEMORY_HOST or ELIR_MEMORY_CUDA");
  }
  if (image.stream != nullptr) {
    throw image_error("the ", what, " is in host memory and has a stream, expected NULL");
  }
}

Pixels view(const elir_image& image) {
  const std::ptrdiff_t row = std::ptrdiff_t{3} * image.width;
  return {static_cast<std::uint8_t*>(image.data), image.stride == 0 ? row : image.stride,
          static_cast<std::size_t>(image.width), static_cast<std::size_t>(image.height)};
}

double psnr(const std::vector<std::uint8_t>& expected, ConstPixels made) {
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{1} * made.data[i] - expected[i];
    error += difference * difference;
  }
  error /= static_cast<double>(expected.size());
  return error > 0 ? 10 * std::log10(255 * 255 / error) : std::numeric_limits<double>::infinity();
}

// Throws what `body` throws, with the image's place in its array.
template <typename Body>
void of_image(std::size_t place, const Body& body) {
  const elir_status status = guarded(body);
  if (status != ELIR_OK) throw Failure(status, text("image ", place, ": ", last_error()));
}

// The text of each only once.
void add_new(std::vector<std::string>& all, std::string one) {
  if (std::find(all.begin(), all.end(), one) == all.end()) all.push_back(std::move(one));
}

}  // namespace

Restorer::Restorer(const std::string& folder, const Wishes& wishes)
    : bundle_(folder),
      fit_(wishes.fit != ELIR_FIT_DEFAULT ? wishes.fit
           : bundle_.manifest().faces     ? ELIR_FIT_RESIZE
                                          : ELIR_FIT_TILE),
      force_(wishes.force) {
  check_served(manifest());
  open(wishes);
  wishes.setup.log.info(
      text(bundle_.path().string(), ": ", manifest().task, " in ", precision_, " on ", backend_));
}

void Restorer::check(const elir_image& input, const elir_image& output) const {
  check_pixels(input, "input");
  check_pixels(output, "output");
  check_place(input, "input", backend_);
  check_place(output, "output", backend_);
  const std::int64_t width = std::int64_t{input.width} * manifest().upscale;
  const std::int64_t height = std::int64_t{input.height} * manifest().upscale;
  if (output.width != width || output.height != height) {
    throw image_error("the output is ", output.width, "x", output.height, ", expected ", width, "x",
                      height, " for an input of ", input.width, "x", input.height);
  }
  const auto side = static_cast<std::int64_t>(manifest().side());
  const bool own_size = width == side && height == side;
  if (!own_size && fit_ == ELIR_FIT_TILE && manifest().faces && !force_) {
    throw usage_error(
        "the image is ", width, "x", height, " at the model's scale and the model takes ", side,
        "x", side, ": ", manifest().task,
        " expects aligned face crops and makes no sense in tiles; set "
        "elir_params.fit to ELIR_FIT_RESIZE for an aligned crop, or elir_params.force");
  }
}

void Restorer::restore(const elir_image& input, const elir_image& output) {
  const EnlargedPicture picture(view(input), input.format == ELIR_BGR8, manifest().upscale,
                                manifest().upscale_kernel);
  const Pixels result = view(output);
  const auto side = manifest().side();
  const Pool::Loan runner(*pool_);
  runner->give_bgr(output.format == ELIR_BGR8);
  if (result.width == side && result.height == side) {
    picture.block(0, 0, runner->input(), runner->scratch());
    copy(runner->run(), result);
  } else if (fit_ == ELIR_FIT_RESIZE) {
    resize_to_square(picture, runner->input(), runner->scratch());
    resize_into(runner->run(), result, runner->scratch());
  } else {
    run_tiled(picture, result, *runner, runner->scratch());
  }
}

void Restorer::restore_all(const elir_image* inputs, const elir_image* outputs, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    of_image(i, [&] { check(inputs[i], outputs[i]); });
  }
  std::vector<std::exception_ptr> failures(count);
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        restore(inputs[i], outputs[i]);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  try {
    for (std::size_t i = 1; i < std::min(at_once(), count); ++i) others.emplace_back(work);
  } catch (const std::exception&) {  // there are no more: fewer do the same work
  }
  work();
  for (std::thread& other : others) other.join();
  for (std::size_t i = 0; i < count; ++i) {
    if (failures[i]) of_image(i, [&] { std::rethrow_exception(failures[i]); });
  }
}

void Restorer::run(const void* input, void* output) {
  const Pool::Loan runner(*pool_);
  runner->run_bare(input, output);
}

void Restorer::open(const Wishes& wishes) {
  if (wishes.backend != "auto") {
    const Backend& chosen = backend_named(wishes.backend);
    if (const auto reason = chosen.available()) {
      throw unavailable_error(chosen.name, " cannot be used: ", *reason);
    }
    const std::string precision = precisions_to_try(chosen, bundle_, wishes.precision).front();
    Runners runners = start(chosen, precision, wishes.setup);
    if (wishes.trial) {
      if (const auto reason = ruined(chosen.name, precision, *runners.front(), wishes.setup.log)) {
        wishes.setup.log.warn(*reason);
      }
    }
    use(chosen, precision, std::move(runners));
    return;
  }
  std::vector<std::string> failures;
  for (const Candidate& candidate : candidates(bundle_, wishes.precision)) {
    const auto& [chosen, precision] = candidate;
    try {
      Runners runners = start(*chosen, precision, wishes.setup);
      if (wishes.trial) {
        if (auto reason = ruined(chosen->name, precision, *runners.front(), wishes.setup.log)) {
          add_new(failures, std::move(*reason));
          continue;
        }
      }
      for (const std::string& failure : failures) {
        wishes.setup.log.warn(text(failure, "; using ", chosen->name, " in ", precision));
      }
      use(*chosen, precision, std::move(runners));
      return;
    } catch (const Failure& failure) {
      if (failure.status() != ELIR_ERROR_UNAVAILABLE) throw;
      add_new(failures, failure.what());
    }
  }
  throw unavailable_error(joined(failures, "; "));
}

Restorer::Runners Restorer::start(const Backend& backend, const std::string& precision,
                                  const Setup& setup) const {
  Runners made;
  for (auto& session : backend.open(bundle_, precision, setup)) {
    made.push_back(std::make_unique<Runner>(manifest(), std::move(session)));
  }
  return made;
}

// Processors differ most where precision is low: INT8 kernels for those without the newest
// instructions saturate or err. One of the bundle's own pictures tells, in the time of one run.
std::optional<std::string> Restorer::ruined(const std::string& backend,
                                            const std::string& precision, Runner& runner,
                                            const Log& log) const {
  const Verification* verified = manifest().verified(precision);
  if (precision == "fp32" || verified == nullptr || manifest().references.empty()) {
    return std::nullopt;
  }
  if (!reads_png()) {
    log.warn(text("this libelir was built without PNG, so ", precision, " on ", backend,
                  " was not tried on the bundle's picture"));
    return std::nullopt;
  }
  const Reference& reference = manifest().references.front();
  const std::size_t side = manifest().side();
  const auto image = read_png(bundle_.checked_file(reference.input), side);
  const auto expected = read_png(bundle_.checked_file(reference.output), side);
  copy(packed(image.data(), side, side), runner.input());
  const double reached = psnr(expected, runner.run());
  const double wanted =
      std::min(kEnoughDb, verified->psnr_db.value_or(std::numeric_limits<double>::infinity()));
  if (reached >= wanted - kToleratedDb) return std::nullopt;
  return text(backend, " computes ", precision,
              " wrongly on this processor: ", with_one_digit(reached),
              " dB on the bundle's picture ", reference.name, ", verified with ",
              with_one_digit(wanted), "; take another backend or precision");
}

void Restorer::use(const Backend& backend, std::string precision, Runners runners) {
  backend_ = backend.name;
  precision_ = std::move(precision);
  pool_ = std::make_unique<Pool>(std::move(runners));
}

}  // namespace elir::core
