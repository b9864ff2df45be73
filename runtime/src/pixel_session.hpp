// A session with the conversions between its tensors and 8-bit pixels. One thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend.hpp"
#include "noise.hpp"
#include "picture.hpp"

namespace elir::core {

class PixelSession {
 public:
  // The manifest must outlive this.
  PixelSession(const Manifest& manifest, std::unique_ptr<Session> session)
      : manifest_(manifest), session_(std::move(session)) {}

  // How many of `waiting` images to run together.
  std::size_t batch(const Shape& shape, std::size_t waiting) const;

  // Prepares runs of `count` images of a shape of the manifest.
  void select(const Shape& shape, std::size_t count);

  // The input image to be written: RGB, of the graph's size.
  Pixels input(std::size_t i);

  // Computes the noise of an image that begins at (left, top) in its picture; `field` is none if
  // no stage takes noise.
  void fill_noise(std::size_t i, const std::optional<NoiseField>& field, std::size_t left = 0,
                  std::size_t top = 0);

  // Restores the images.
  void run();

  // Restores images from and to device memory; null: input() and output(). Each has the noise that
  // its top left corner has. The network's input and output must be pixels.
  void run_images(const elir_image* inputs, const elir_image* outputs,
                  const std::optional<NoiseField>& field);

  bool has_device() const { return session_->has_device(); }
  void check_device_image(const elir_image& image, const char* what) const {
    session_->check_device_image(image, what);
  }

  // A result, RGB, after run(). The caller may overwrite it once.
  Pixels output(std::size_t i);

  // Runs the network on tensors of the first shape's largest batch, with the noise of pictures that
  // begin there.
  void run_tensors(const void* input, void* output, const std::optional<NoiseField>& field);

  bool exact_batches() const { return session_->exact_batches(); }
  std::optional<int> threads() const { return session_->threads(); }

  Scratch& scratch() { return scratch_; }

 private:
  // Image `i` of a tensor or, if that does not contain pixels unchanged, of `staged`.
  Pixels image(std::size_t i, const TensorSpec& spec, void* tensor,
               std::vector<std::uint8_t>& staged);

  const Manifest& manifest_;
  std::unique_ptr<Session> session_;
  Shape selected_;
  Tensors* tensors_ = nullptr;
  // Pixels before and after conversion.
  std::vector<std::uint8_t> staged_input_;
  std::vector<std::uint8_t> staged_output_;
  Scratch scratch_;
};

}  // namespace elir::core
