#include "runner.hpp"

#include <cmath>
#include <cstring>

namespace elir::core {
namespace {

bool holds_pixels(const TensorSpec& spec) {
  return spec.dtype == Dtype::uint8 && spec.layout == Layout::nhwc;
}

// Calls `each(in pixels, in tensor)` with the place of every value in both.
template <typename Each>
void for_each_value(const TensorSpec& spec, std::size_t side, Each each) {
  const std::size_t area = side * side;
  if (spec.layout == Layout::nhwc) {
    for (std::size_t i = 0; i < kChannels * area; ++i) each(i, i);
    return;
  }
  for (std::size_t c = 0; c < kChannels; ++c) {
    for (std::size_t i = 0; i < area; ++i) each(kChannels * i + c, c * area + i);
  }
}

// As the graph of an 8-bit bundle does it: clipped, NaN to 0, half to even.
std::uint8_t eight_bit(float value) {
  const float clipped = std::fmin(std::fmax(value, 0.0F), 1.0F);
  return static_cast<std::uint8_t>(std::nearbyint(clipped * 255.0F));
}

}  // namespace

Runner::Runner(const Manifest& manifest, std::unique_ptr<Session> session)
    : input_spec_(manifest.input),
      output_spec_(manifest.output),
      side_(static_cast<std::size_t>(manifest.image_size)),
      session_(std::move(session)) {
  if (!holds_pixels(input_spec_)) staged_input_.resize(kChannels * side_ * side_);
  if (!holds_pixels(output_spec_)) staged_output_.resize(kChannels * side_ * side_);
}

Pixels Runner::input() {
  auto* data =
      staged_input_.empty() ? static_cast<std::uint8_t*>(session_->input()) : staged_input_.data();
  return packed(data, side_, side_);
}

Pixels Runner::run() {
  write_input();
  session_->run();
  const Pixels made = read_output();
  if (bgr_) swap_channels(made);
  return made;
}

void Runner::run_bare(const void* input, void* output) {
  std::memcpy(session_->input(), input, input_spec_.bytes());
  session_->run();
  std::memcpy(output, session_->output(), output_spec_.bytes());
}

void Runner::write_input() {
  if (staged_input_.empty()) return;
  const std::uint8_t* pixels = staged_input_.data();
  if (input_spec_.dtype == Dtype::uint8) {
    auto* values = static_cast<std::uint8_t*>(session_->input());
    for_each_value(input_spec_, side_,
                   [=](std::size_t i, std::size_t at) { values[at] = pixels[i]; });
  } else {
    auto* values = static_cast<float*>(session_->input());
    for_each_value(input_spec_, side_, [=](std::size_t i, std::size_t at) {
      values[at] = static_cast<float>(pixels[i]) / 255.0F;
    });
  }
}

Pixels Runner::read_output() {
  if (staged_output_.empty()) {
    return packed(static_cast<std::uint8_t*>(session_->output()), side_, side_);
  }
  std::uint8_t* pixels = staged_output_.data();
  if (output_spec_.dtype == Dtype::uint8) {
    const auto* values = static_cast<const std::uint8_t*>(session_->output());
    for_each_value(output_spec_, side_,
                   [=](std::size_t i, std::size_t at) { pixels[i] = values[at]; });
  } else {
    const auto* values = static_cast<const float*>(session_->output());
    for_each_value(output_spec_, side_,
                   [=](std::size_t i, std::size_t at) { pixels[i] = eight_bit(values[at]); });
  }
  return packed(pixels, side_, side_);
}

}  // namespace elir::core
