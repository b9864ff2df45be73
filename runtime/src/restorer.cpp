#include "restorer.hpp"

#include <cstdint>
#include <mutex>
#include <thread>

#include "conversion.hpp"
#include "error.hpp"
#include "guard.hpp"
#include "text.hpp"

namespace elir::core {
void check_image(const elir_image& image, const char* what) {
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
  if (raw(image.memory) == ELIR_MEMORY_CUDA) return;
  if (raw(image.memory) != ELIR_MEMORY_HOST) {
    throw image_error("the ", what, " has memory ", raw(image.memory),
                      ", expected ELIR_MEMORY_HOST or ELIR_MEMORY_CUDA");
  }
  if (image.stream != nullptr) {
    throw image_error("the ", what, " has a stream, expected NULL for host memory");
  }
}

void check_on_host(const elir_image& image, const char* what, const std::string& why) {
  if (image.memory == ELIR_MEMORY_HOST) return;
  throw unavailable_error("the ", what, " is in CUDA memory, ", why, ": copy it to host memory");
}

Pixels view(const elir_image& image) {
  const std::ptrdiff_t row = std::ptrdiff_t{3} * image.width;
  return {static_cast<std::uint8_t*>(image.data), image.stride == 0 ? row : image.stride,
          static_cast<std::size_t>(image.width), static_cast<std::size_t>(image.height)};
}

namespace {

// Throws what `body` throws, with the image's index in its array.
template <typename Body>
void with_index(std::size_t index, const Body& body) {
  const elir_status status = guarded(body);
  if (status != ELIR_OK) throw Failure(status, text("image ", index, ": ", last_error));
}

// The shape of exactly this size; null: there is none.
const Shape* find_size(const Manifest& manifest, std::int64_t width, std::int64_t height) {
  for (const Shape& shape : manifest.shapes) {
    if (shape.width == width && shape.height == height) return &shape;
  }
  return nullptr;
}

// The sizes of the network, such as "512x512 or 1280x720".
std::string sizes_of(const Manifest& manifest) {
  std::vector<std::string> sizes;
  for (const Shape& shape : manifest.shapes) sizes.push_back(text(shape.width, "x", shape.height));
  return joined(sizes, " or ");
}

std::optional<NoiseField> noise_of(const Manifest& manifest, const OpenOptions& options) {
  if (!manifest.seed) {
    if (!options.sigma_s && !options.seed) return std::nullopt;
    throw usage_error("elir_params.", options.sigma_s ? "sigma_s" : "seed",
                      " is set, and the noise of this bundle is a constant of its graphs: export "
                      "it with --noise field");
  }
  const std::int64_t seed = options.seed.value_or(*manifest.seed);
  const double sigma_s = options.sigma_s.value_or(manifest.sigma_s);
  if (const auto reason = why_not_noise(seed, sigma_s)) throw usage_error(*reason);
  return NoiseField(seed, sigma_s);
}

// Throws a usage error if a tile cannot have this overlap.
void check_overlap(const Manifest& manifest, std::optional<std::size_t> overlap) {
  if (!overlap) return;
  std::int64_t side = INT64_MAX;
  for (const Shape& shape : manifest.shapes) {
    side = std::min({side, shape.padded_width, shape.padded_height});
  }
  if (*overlap <= static_cast<std::size_t>(side) / 2) return;
  throw usage_error("elir_params.tile_overlap is ", *overlap, ", expected at most ", side / 2,
                    ", half the smallest side of a tile");
}

}  // namespace

Restorer::Restorer(const std::string& folder, const OpenOptions& options)
    : bundle_(folder),
      fit_(options.fit != ELIR_FIT_DEFAULT ? options.fit
           : bundle_.manifest().faces      ? ELIR_FIT_RESIZE
                                           : ELIR_FIT_TILE),
      force_(options.force),
      noise_(noise_of(manifest(), options)),
      tile_overlap_(options.tile_overlap),
      strength_(options.strength) {
  check_overlap(manifest(), tile_overlap_);
  Opened opened = open_sessions(bundle_, options);
  backend_ = std::move(opened.backend);
  precision_ = std::move(opened.precision);
  const std::string& device = options.setup.device_name;
  std::string line =
      text(manifest().task, ": ", backend_, device.empty() ? "" : " on ", device, ", ", precision_);
  if (const auto threads = opened.sessions.front()->threads()) {
    line += text(", ", *threads, *threads == 1 ? " thread" : " threads");
  }
  exact_batches_ = opened.sessions.front()->exact_batches();
  pool_ = std::make_unique<Pool>(std::move(opened.sessions));
  options.setup.log.info(line);
}

void Restorer::check(const elir_image& input, const elir_image& output) const {
  check_image(input, "input");
  check_image(output, "output");
  const std::int64_t width = std::int64_t{input.width} * manifest().upscale;
  const std::int64_t height = std::int64_t{input.height} * manifest().upscale;
  if (output.width != width || output.height != height) {
    throw image_error("the output is ", output.width, "x", output.height, ", expected ", width, "x",
                      height, " for an input of ", input.width, "x", input.height);
  }
  if (input.memory == ELIR_MEMORY_CUDA) {
    if (manifest().upscale > 1) {
      check_on_host(input, "input", text("where ", manifest().task, " does not enlarge it"));
    }
    check_on_device(input, "input", width, height);
  }
  if (output.memory == ELIR_MEMORY_CUDA) check_on_device(output, "output", width, height);
  if (fit_ == ELIR_FIT_TILE && manifest().faces && !force_) {
    const Shape& first = manifest().shapes.front();
    if (find_size(manifest(), width, height) != nullptr) return;
    throw usage_error("the image is ", width, "x", height, " after enlarging, expected ",
                      first.width, "x", first.height, ": ", manifest().task,
                      " restores aligned face crops, not tiles; set elir_params.fit to "
                      "ELIR_FIT_RESIZE for an aligned crop, or elir_params.force");
  }
}

void Restorer::check_on_device(const elir_image& image, const char* what, std::int64_t width,
                               std::int64_t height) const {
  const PixelSession& session = pool_->first();
  if (!session.has_device()) {
    check_on_host(image, what, text("which ", backend_, " does not support"));
  }
  if (!holds_pixels(manifest().input()) || !holds_pixels(manifest().output())) {
    check_on_host(image, what, "and this bundle takes or gives no bytes (elir-export --io uint8)");
  }
  if (!strength_.full()) {
    check_on_host(image, what, "where elir_params.strength must be 1");
  }
  if (image.format != ELIR_RGB8) {
    throw image_error("the ", what,
                      " has format ELIR_BGR8 in CUDA memory, expected ELIR_RGB8: "
                      "swap the channels on the GPU, or copy it to host memory");
  }
  if (image.stride < 0) {
    throw image_error("the ", what, " has a stride of ", image.stride,
                      " bytes in CUDA memory, expected at least ", std::int64_t{3} * image.width,
                      ": rows must be stored top down there");
  }
  if (find_size(manifest(), width, height) == nullptr) {
    throw image_error("the ", what, " is ", image.width, "x", image.height,
                      " in CUDA memory, expected ", sizes_of(manifest()),
                      ": resize it on the GPU, copy it to host memory, or export the bundle with "
                      "--image-size ",
                      width, "x", height);
  }
  session.check_device_image(image, what);
}

Spans Restorer::spans(std::size_t length, std::int64_t tile) const {
  const auto side = static_cast<std::size_t>(tile);
  const auto step = static_cast<std::size_t>(noise_ ? manifest().noise()->stride : 1);
  return {length, side, step, tile_overlap_.value_or(default_overlap(side))};
}

Restorer::Plan Restorer::plan_of(const ImagePair& images) const {
  const elir_image& output = images.output;
  const bool from_device = images.input.memory == ELIR_MEMORY_CUDA;
  const bool to_device = output.memory == ELIR_MEMORY_CUDA;
  const Shape* same = find_size(manifest(), output.width, output.height);
  if (same != nullptr) return {same, 1, from_device, to_device};
  const auto& shapes = manifest().shapes;
  if (fit_ == ELIR_FIT_RESIZE) return {&shapes.front(), 1, from_device, to_device};
  Plan best{nullptr, 0, from_device, to_device};
  std::int64_t least = INT64_MAX;
  for (const Shape& shape : shapes) {
    const std::size_t runs =
        spans(static_cast<std::size_t>(output.height), shape.padded_height).size() *
        spans(static_cast<std::size_t>(output.width), shape.padded_width).size();
    const std::int64_t cost =
        static_cast<std::int64_t>(runs) * shape.padded_height * shape.padded_width;
    if (cost > least || (cost == least && runs >= best.runs)) continue;
    best.shape = &shape;
    best.runs = runs;
    least = cost;
  }
  return best;
}

EnlargedPicture Restorer::enlarged(const elir_image& image, bool bgr) const {
  return {view(image), bgr, manifest().upscale, manifest().upscale_kernel};
}

void Restorer::restore(const elir_image* inputs, const elir_image* outputs, std::size_t count) {
  const auto session = pool_->take();
  if (!strength_.none()) restore_fully(inputs, outputs, count, *session);
  for (std::size_t i = 0; i < count; ++i) {
    // In the order of the output's channels.
    const EnlargedPicture before = enlarged(inputs[i], inputs[i].format != outputs[i].format);
    strength_.blend(before, view(outputs[i]), session->scratch());
  }
}

void Restorer::restore_fully(const elir_image* inputs, const elir_image* outputs, std::size_t count,
                             PixelSession& session) {
  const auto picture_of = [&](std::size_t i) {
    return enlarged(inputs[i], inputs[i].format == ELIR_BGR8);
  };
  const Plan plan = plan_of({*inputs, *outputs});
  const Shape& shape = *plan.shape;
  if (plan.runs > 1) return restore_tiles(picture_of(0), *outputs, shape, session);
  const auto width = static_cast<std::size_t>(shape.width);
  const auto height = static_cast<std::size_t>(shape.height);
  const auto resized = [&](const elir_image& output) {
    return fit_ == ELIR_FIT_RESIZE &&
           (output.width != shape.width || output.height != shape.height);
  };
  for (std::size_t first = 0, together = 0; first < count; first += together) {
    together = session.batch(shape, count - first);
    session.select(shape, together);
    for (std::size_t i = 0; !plan.from_device && i < together; ++i) {
      const EnlargedPicture picture = picture_of(first + i);
      const Pixels input = session.input(i);
      if (resized(outputs[first + i])) {
        resize_to(picture, input.part(0, 0, width, height), session.scratch());
        mirror(input, width, height);
      } else {
        cut_tile(picture, 0, 0, input, session.scratch());
      }
    }
    if (plan.from_device || plan.to_device) {
      session.run_images(plan.from_device ? inputs + first : nullptr,
                         plan.to_device ? outputs + first : nullptr, noise_);
    } else {
      for (std::size_t i = 0; i < together; ++i) session.fill_noise(i, noise_);
      session.run();
    }
    for (std::size_t i = 0; !plan.to_device && i < together; ++i) {
      const elir_image& output = outputs[first + i];
      const Pixels result = view(output);
      const Pixels restored = session.output(i);
      if (output.format == ELIR_BGR8) swap_channels(restored);
      if (resized(output)) {
        resize_into(restored.part(0, 0, width, height), result, session.scratch());
      } else {
        copy(restored.part(0, 0, result.width, result.height), result);
      }
    }
  }
}

void Restorer::restore_tiles(const EnlargedPicture& picture, const elir_image& output,
                             const Shape& shape, PixelSession& session) {
  const Spans rows = spans(picture.height(), shape.padded_height);
  const Spans columns = spans(picture.width(), shape.padded_width);
  const std::size_t count = rows.size() * columns.size();
  Blending blending(view(output), rows, columns, session.scratch());
  for (std::size_t first = 0, together = 0; first < count; first += together) {
    together = session.batch(shape, count - first);
    session.select(shape, together);
    for (std::size_t i = 0; i < together; ++i) {
      const std::size_t left = columns[(first + i) % columns.size()].start;
      const std::size_t top = rows[(first + i) / columns.size()].start;
      cut_tile(picture, left, top, session.input(i), session.scratch());
      session.fill_noise(i, noise_, left, top);
    }
    session.run();
    for (std::size_t i = 0; i < together; ++i) {
      const Pixels tile = session.output(i);
      if (output.format == ELIR_BGR8) swap_channels(tile);
      blending.add(tile);
    }
  }
}

void Restorer::restore_batch(const elir_image* inputs, const elir_image* outputs,
                             std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    with_index(i, [&] { check(inputs[i], outputs[i]); });
  }
  std::vector<std::exception_ptr> failures(count);
  std::mutex mutex;
  std::size_t next = 0;
  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (next < count) {
      const std::size_t first = next;
      const std::size_t size = group_size(count - first, [&](std::size_t i) -> ImagePair {
        return {inputs[first + i], outputs[first + i]};
      });
      next += size;
      lock.unlock();
      restore_group(
          inputs + first, outputs + first, size,
          [&](std::size_t i, const std::exception_ptr& error) { failures[first + i] = error; });
      lock.lock();
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

void Restorer::run_squares(const Shape& shape, const std::uint8_t* images, std::uint8_t* restored,
                           std::size_t count) {
  const auto width = static_cast<std::size_t>(shape.width);
  const auto height = static_cast<std::size_t>(shape.height);
  const std::size_t bytes = kChannels * width * height;
  const auto session = pool_->take();
  for (std::size_t first = 0, together = 0; first < count; first += together) {
    together = session->batch(shape, count - first);
    session->select(shape, together);
    for (std::size_t i = 0; i < together; ++i) {
      const Pixels input = session->input(i);
      copy(packed(images + (first + i) * bytes, width, height), input.part(0, 0, width, height));
      mirror(input, width, height);
      session->fill_noise(i, noise_);
    }
    session->run();
    for (std::size_t i = 0; i < together; ++i) {
      copy(session->output(i).part(0, 0, width, height),
           packed(restored + (first + i) * bytes, width, height));
    }
  }
}

void Restorer::run(const void* input, void* output) {
  const auto session = pool_->take();
  session->run_tensors(input, output, noise_);
}

}  // namespace elir::core
