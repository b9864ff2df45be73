// A session with the conversions between its tensors and 8-bit pixels. One thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend.hpp"
#include "picture.hpp"

namespace elir::core {

class PixelSession {
 public:
  PixelSession(const Manifest& manifest, std::unique_ptr<Session> session);

  // The input image to be written: RGB, a square of the network's size; the same memory in every
  // run.
  Pixels input();

  // Restores the input. The caller may overwrite the result, which is valid until the next input is
  // written.
  Pixels run();

  // The order of channels of run()'s result; RGB by default.
  void set_bgr_output(bool bgr) { bgr_ = bgr; }

  // Runs the network on tensors of the manifest's input and output specs.
  void run_tensors(const void* input, void* output);

  std::optional<int> threads() const { return session_->threads(); }

  Scratch& scratch() { return scratch_; }

 private:
  const TensorSpec input_spec_;
  const TensorSpec output_spec_;
  const std::size_t side_;
  std::unique_ptr<Session> session_;
  // Pixels before and after conversion; empty if the tensor contains them unchanged.
  std::vector<std::uint8_t> staged_input_;
  std::vector<std::uint8_t> staged_output_;
  bool bgr_ = false;
  Scratch scratch_;
};

}  // namespace elir::core
