#include "pixel_session.hpp"

#include <algorithm>
#include <cstring>

#include "conversion.hpp"

namespace elir::core {
namespace {

// Image `i` of a tensor of `shape`.
void* part(const TensorSpec& spec, const Shape& shape, void* tensor, std::size_t i) {
  return static_cast<char*>(tensor) + i * spec.bytes(shape) / static_cast<std::size_t>(shape.batch);
}

}  // namespace

std::size_t PixelSession::batch(const Shape& shape, std::size_t waiting) const {
  const auto largest = static_cast<std::size_t>(shape.batch);
  if (!session_->exact_batches()) return 1;
  if (waiting >= largest) return largest;
  return session_->any_batch() ? waiting : 1;
}

void PixelSession::select(const Shape& shape, std::size_t count) {
  selected_ = shape;
  selected_.batch = static_cast<std::int64_t>(count);
  tensors_ = &session_->tensors(selected_);
}

Pixels PixelSession::image(std::size_t i, const TensorSpec& spec, void* tensor,
                           std::vector<std::uint8_t>& staged) {
  const auto width = static_cast<std::size_t>(selected_.padded_width);
  const auto height = static_cast<std::size_t>(selected_.padded_height);
  const std::size_t bytes = kChannels * width * height;
  auto* data = static_cast<std::uint8_t*>(tensor);
  if (!holds_pixels(spec)) {
    staged.resize(bytes * static_cast<std::size_t>(selected_.batch));
    data = staged.data();
  }
  return packed(data + i * bytes, width, height);
}

Pixels PixelSession::input(std::size_t i) {
  return image(i, manifest_.input(), tensors_->input(), staged_input_);
}

void PixelSession::fill_noise(std::size_t i, const std::optional<NoiseField>& field,
                              std::size_t left, std::size_t top) {
  if (!field) return;
  const TensorSpec& spec = *manifest_.noise();
  const auto [batch, channels, height, width] = spec.sides(selected_);
  const auto stride = static_cast<std::size_t>(spec.stride);
  field->fill(static_cast<float*>(part(spec, selected_, tensors_->noise(), i)),
              static_cast<std::size_t>(channels), static_cast<std::size_t>(height),
              static_cast<std::size_t>(width), left / stride, top / stride);
}

void PixelSession::run() {
  const TensorSpec& spec = manifest_.input();
  for (std::size_t i = 0; !holds_pixels(spec) && i < static_cast<std::size_t>(selected_.batch);
       ++i) {
    const Pixels image = input(i);
    to_tensor(image.data, image.width * image.height, spec,
              part(spec, selected_, tensors_->input(), i));
  }
  tensors_->run();
}

void PixelSession::run_images(const elir_image* inputs, const elir_image* outputs,
                              const std::optional<NoiseField>& field) {
  const auto count = static_cast<std::size_t>(selected_.batch);
  for (std::size_t i = 0; tensors_->reads_noise() && i < count; ++i) fill_noise(i, field);
  tensors_->run_images(inputs, outputs);
}

Pixels PixelSession::output(std::size_t i) {
  const TensorSpec& spec = manifest_.output();
  const Pixels result = image(i, spec, tensors_->output(), staged_output_);
  if (!holds_pixels(spec)) {
    to_pixels(spec, part(spec, selected_, tensors_->output(), i), result.width * result.height,
              result.data);
  }
  return result;
}

void PixelSession::run_tensors(const void* input, void* output,
                               const std::optional<NoiseField>& field) {
  const Shape& shape = manifest_.shapes.front();
  select(shape, static_cast<std::size_t>(shape.batch));
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.batch); ++i) fill_noise(i, field);
  std::memcpy(tensors_->input(), input, manifest_.input().bytes(shape));
  tensors_->run();
  std::memcpy(output, tensors_->output(), manifest_.output().bytes(shape));
}

}  // namespace elir::core
