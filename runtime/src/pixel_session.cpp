#include "pixel_session.hpp"

#include <cstring>

#include "conversion.hpp"

namespace elir::core {

PixelSession::PixelSession(const Manifest& manifest, std::unique_ptr<Session> session)
    : input_spec_(manifest.input()),
      output_spec_(manifest.output()),
      side_(manifest.side()),
      session_(std::move(session)) {
  if (!holds_pixels(input_spec_)) staged_input_.resize(kChannels * side_ * side_);
  if (!holds_pixels(output_spec_)) staged_output_.resize(kChannels * side_ * side_);
}

Pixels PixelSession::input() {
  auto* data =
      staged_input_.empty() ? static_cast<std::uint8_t*>(session_->input()) : staged_input_.data();
  return packed(data, side_, side_);
}

Pixels PixelSession::run() {
  if (!staged_input_.empty()) {
    to_tensor(staged_input_.data(), side_, input_spec_, session_->input());
  }
  session_->run();
  auto* data = static_cast<std::uint8_t*>(session_->output());
  if (!staged_output_.empty()) {
    data = staged_output_.data();
    to_pixels(output_spec_, session_->output(), side_, data);
  }
  const Pixels output = packed(data, side_, side_);
  if (bgr_) swap_channels(output);
  return output;
}

void PixelSession::run_tensors(const void* input, void* output) {
  std::memcpy(session_->input(), input, input_spec_.bytes());
  session_->run();
  std::memcpy(output, session_->output(), output_spec_.bytes());
}

}  // namespace elir::core
