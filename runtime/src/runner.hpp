// A session, and what lies between its tensors and 8-bit pixels. One thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend.hpp"
#include "picture.hpp"

namespace elir::core {

class Runner {
 public:
  Runner(const Manifest& manifest, std::unique_ptr<Session> session);

  // Where the next image goes: RGB, a square of the model's size; the same memory at every run.
  Pixels input();

  // Restores it. The result may be written; it lasts until the next input is written.
  Pixels run();

  // The order of channels of what run() gives; RGB at first.
  void give_bgr(bool bgr) { bgr_ = bgr; }

  // The bare model: both are of the manifest's specs.
  void run_bare(const void* input, void* output);

  std::optional<int> threads() const { return session_->threads(); }

  Scratch& scratch() { return scratch_; }

 private:
  const TensorSpec input_spec_;
  const TensorSpec output_spec_;
  const std::size_t side_;
  std::unique_ptr<Session> session_;
  // Pixels on their way in and out; empty where the tensor holds them as they are.
  std::vector<std::uint8_t> staged_input_;
  std::vector<std::uint8_t> staged_output_;
  bool bgr_ = false;
  Scratch scratch_;
};

}  // namespace elir::core
