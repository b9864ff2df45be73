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
  if (image.data == nullptr) throw image_error("the data of the ", what, " is NULL");
  if (image.width < 1 || image.height < 1) {
    throw image_error("the ", what, " is ", image.width, "x", image.height,
                      ", expected at least 1x1");
  }
  const std::int64_t row = std::int64_t{3} * image.width;
  if (image.stride != 0 && image.stride < row && image.stride > -row) {
    throw image_error("the ", what, " has a stride of ", image.stride, " bytes, expected at least ",
                      row, " for ", image.width, " pixels");
  }
  // The distance from the first to the last row must not overflow.
  const std::int64_t most = PTRDIFF_MAX / image.height;
  const std::int64_t stride = image.stride == 0 ? row : image.stride;
  if (stride > most || stride < -most) {
    throw image_error("the ", what, " has a stride of ", stride, " bytes, expected at most ", most,
                      " for ", image.height, " rows");
  }
  if (raw(image.format) != ELIR_RGB8 && raw(image.format) != ELIR_BGR8) {
    throw image_error("the ", what, " has format ", raw(image.format),
                      ", expected ELIR_RGB8 or ELIR_BGR8");
  }
  if (raw(image.memory) == ELIR_MEMORY_CUDA) {
    throw unavailable_error("the ", what, " is in CUDA memory, which ", backend,
                            " does not support: copy it to host memory");
  }
  if (raw(image.memory) != ELIR_MEMORY_HOST) {
    throw image_error("the ", what, " has memory ", raw(image.memory),
                      ", expected ELIR_MEMORY_HOST or ELIR_MEMORY_CUDA");
  }
  if (image.stream != nullptr) {
    throw image_error("the ", what, " has a stream, expected NULL for host memory");
  }
}

Pixels view(const elir_image& image) {
  const std::ptrdiff_t row = std::ptrdiff_t{3} * image.width;
  return {static_cast<std::uint8_t*>(image.data), image.stride == 0 ? row : image.stride,
          static_cast<std::size_t>(image.width), static_cast<std::size_t>(image.height)};
}

// Throws what `body` throws, with the image's index in its array.
template <typename Body>
void with_index(std::size_t index, const Body& body) {
  const elir_status status = guarded(body);
  if (status != ELIR_OK) throw Failure(status, text("image ", index, ": ", last_error));
}

}  // namespace

Restorer::Restorer(const std::string& folder, const OpenOptions& options)
    : bundle_(folder),
      fit_(options.fit != ELIR_FIT_DEFAULT ? options.fit
           : bundle_.manifest().faces      ? ELIR_FIT_RESIZE
                                           : ELIR_FIT_TILE),
      force_(options.force) {
  check_supported(manifest());
  Opened opened = open_sessions(bundle_, options);
  backend_ = std::move(opened.backend);
  precision_ = std::move(opened.precision);
  std::string line = text(manifest().task, ": ", backend_, ", ", precision_);
  if (const auto threads = opened.sessions.front()->threads()) {
    line += text(", ", *threads, *threads == 1 ? " thread" : " threads");
  }
  pool_ = std::make_unique<Pool>(std::move(opened.sessions));
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
  const bool fits = width == side && height == side;
  if (!fits && fit_ == ELIR_FIT_TILE && manifest().faces && !force_) {
    throw usage_error(
        "the image is ", width, "x", height, " after enlarging, expected ", side, "x", side, ": ",
        manifest().task,
        " restores aligned face crops, not tiles; set elir_params.fit to ELIR_FIT_RESIZE for an "
        "aligned crop, or elir_params.force");
  }
}

void Restorer::restore(const elir_image& input, const elir_image& output) {
  const EnlargedPicture picture(view(input), input.format == ELIR_BGR8, manifest().upscale,
                                manifest().upscale_kernel);
  const Pixels result = view(output);
  const auto side = manifest().side();
  const auto session = pool_->take();
  session->set_bgr_output(output.format == ELIR_BGR8);
  if (result.width == side && result.height == side) {
    picture.block(0, 0, session->input(), session->scratch());
    copy(session->run(), result);
  } else if (fit_ == ELIR_FIT_RESIZE) {
    resize_to_square(picture, session->input(), session->scratch());
    resize_into(session->run(), result, session->scratch());
  } else {
    const auto run = [&] { return session->run(); };
    run_tiled(picture, result, session->input(), run, session->scratch());
  }
}

void Restorer::restore_batch(const elir_image* inputs, const elir_image* outputs,
                             std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    with_index(i, [&] { check(inputs[i], outputs[i]); });
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
  } catch (const std::exception&) {  // fewer threads do the same work
  }
  work();
  for (std::thread& other : others) other.join();
  for (std::size_t i = 0; i < count; ++i) {
    if (failures[i]) with_index(i, [&] { std::rethrow_exception(failures[i]); });
  }
}

void Restorer::run(const void* input, void* output) {
  const auto session = pool_->take();
  session->run_tensors(input, output);
}

}  // namespace elir::core
