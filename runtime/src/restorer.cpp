#include "restorer.hpp"

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

#include "error.hpp"
#include "guard.hpp"
#include "text.hpp"
#include "tiling.hpp"

namespace elir::core {
namespace {

void check_image(const elir_image& image, const char* what, const std::string& backend) {
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
  if (raw(image.format) != ELIR_RGB8 && raw(image.format) != ELIR_BGR8) {
    throw image_error("the ", what, " has format ", raw(image.format),
                      ", expected ELIR_RGB8 or ELIR_BGR8");
  }
  if (raw(image.memory) == ELIR_MEMORY_CUDA) {
    throw unavailable_error("the ", what, " is in CUDA memory, and ", backend,
                            " takes images in host memory only: copy it there");
  }
  if (raw(image.memory) != ELIR_MEMORY_HOST) {
    throw image_error("the ", what, " has memory ", raw(image.memory),
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

// Throws what `body` throws, with the image's place in its array.
template <typename Body>
void of_image(std::size_t place, const Body& body) {
  const elir_status status = guarded(body);
  if (status != ELIR_OK) throw Failure(status, text("image ", place, ": ", last_error));
}

}  // namespace

Restorer::Restorer(const std::string& folder, const OpenOptions& options)
    : bundle_(folder),
      fit_(options.fit != ELIR_FIT_DEFAULT ? options.fit
           : bundle_.manifest().faces      ? ELIR_FIT_RESIZE
                                           : ELIR_FIT_TILE),
      force_(options.force) {
  check_served(manifest());
  Opened opened = open_runners(bundle_, options);
  backend_ = std::move(opened.backend);
  precision_ = std::move(opened.precision);
  std::string line = text(manifest().task, ": ", backend_, ", ", precision_);
  if (const auto threads = opened.runners.front()->threads()) {
    line += text(", ", *threads, *threads == 1 ? " thread" : " threads");
  }
  pool_ = std::make_unique<Pool>(std::move(opened.runners));
  options.setup.log.info(line);
}

void Restorer::check(const elir_image& input, const elir_image& output) const {
  check_image(input, "input", backend_);
  check_image(output, "output", backend_);
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
  const auto runner = pool_->take();
  runner->give_bgr(output.format == ELIR_BGR8);
  if (result.width == side && result.height == side) {
    picture.block(0, 0, runner->input(), runner->scratch());
    copy(runner->run(), result);
  } else if (fit_ == ELIR_FIT_RESIZE) {
    resize_to_square(picture, runner->input(), runner->scratch());
    resize_into(runner->run(), result, runner->scratch());
  } else {
    const auto run = [&] { return runner->run(); };
    run_tiled(picture, result, runner->input(), run, runner->scratch());
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
    for (std::size_t i = 1; i < std::min(concurrency(), count); ++i) others.emplace_back(work);
  } catch (const std::exception&) {  // there are no more: fewer do the same work
  }
  work();
  for (std::thread& other : others) other.join();
  for (std::size_t i = 0; i < count; ++i) {
    if (failures[i]) of_image(i, [&] { std::rethrow_exception(failures[i]); });
  }
}

void Restorer::run(const void* input, void* output) {
  const auto runner = pool_->take();
  runner->run_bare(input, output);
}

}  // namespace elir::core
