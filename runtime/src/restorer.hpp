// Restores images with a bundle opened on a backend.
#pragma once

#include <elir/elir.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "noise.hpp"
#include "opening.hpp"
#include "pool.hpp"
#include "strength.hpp"
#include "tiling.hpp"

namespace elir::core {

// elir_params, validated and typed.
struct OpenOptions : OpeningOptions {
  elir_fit fit = ELIR_FIT_DEFAULT;
  bool force = false;
  std::optional<double> sigma_s;
  std::optional<std::int64_t> seed;
  std::optional<std::size_t> tile_overlap;
  Strength strength;
};

// Throws an image error. `what` is the image, such as "input".
void check_image(const elir_image& image, const char* what);

// Throws an unavailable error if a checked image is not in host memory; `why` completes the message
// "the input is in CUDA memory, ".
void check_on_host(const elir_image& image, const char* what, const std::string& why);

// The pixels of a checked image.
Pixels view(const elir_image& image);

// An image to restore, and its output.
struct ImagePair {
  const elir_image& input;
  const elir_image& output;
};

class Restorer {
 public:
  Restorer(const std::string& folder, const OpenOptions& options);

  const Bundle& bundle() const { return bundle_; }
  const Manifest& manifest() const { return bundle_.manifest(); }
  const std::string& backend() const { return backend_; }
  const std::string& precision() const { return precision_; }
  elir_fit fit() const { return fit_; }
  const Strength& strength() const { return strength_; }
  std::size_t concurrency() const { return pool_->size(); }

  // Throws an image error, an unavailable error for memory that the backend does not support, or a
  // usage error if a face model would run in tiles.
  void check(const elir_image& input, const elir_image& output) const;

  // How many of these images, from the first on, are restored in one run: one if a batch does not
  // give the bytes of single images. `images_at` returns an input and its output. They pass
  // check().
  template <typename ImagesAt>
  std::size_t group_size(std::size_t count, const ImagesAt& images_at) const {
    const Plan plan = plan_of(images_at(0));
    if (plan.runs > 1 || !exact_batches_) return 1;
    const std::size_t most = std::min(count, static_cast<std::size_t>(plan.shape->batch));
    std::size_t size = 1;
    while (size < most && plan_of(images_at(size)) == plan) ++size;
    return size;
  }

  // Restores a group of images; if that fails, each of them alone. Calls `done` with the index and
  // the error of each.
  template <typename Done>
  void restore_group(const elir_image* inputs, const elir_image* outputs, std::size_t count,
                     const Done& done) {
    std::exception_ptr error = error_of([&] { restore(inputs, outputs, count); });
    const bool again = error && count > 1;
    for (std::size_t i = 0; i < count; ++i) {
      if (again) error = error_of([&] { restore(inputs + i, outputs + i, 1); });
      done(i, error);
    }
  }

  // Restores an image.
  void restore(const elir_image& input, const elir_image& output) { restore(&input, &output, 1); }

  // Checks all images, then restores all. If some fail, the others are still restored; throws the
  // error of the first that failed, with its index.
  void restore_batch(const elir_image* inputs, const elir_image* outputs, std::size_t count);

  // Runs the network, at full strength, on `count` images of one shape in RGB, without padding
  // between rows. `restored` may be `images`.
  void run_squares(const Shape& shape, const std::uint8_t* images, std::uint8_t* restored,
                   std::size_t count);

  // Runs the network on tensors.
  void run(const void* input, void* output);

 private:
  struct Plan {
    const Shape* shape;
    std::size_t runs;  // of single images
    bool from_device;  // the input is in device memory
    bool to_device;
    bool operator==(const Plan& other) const {
      return shape == other.shape && runs == other.runs && from_device == other.from_device &&
             to_device == other.to_device;
    }
  };
  Plan plan_of(const ImagePair& images) const;

  // Throws unless this restorer can restore an image in device memory, from or to there. `width`
  // and `height` are those of its output.
  void check_on_device(const elir_image& image, const char* what, std::int64_t width,
                       std::int64_t height) const;

  template <typename Body>
  static std::exception_ptr error_of(const Body& body) {
    try {
      body();
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  // Restores images of one group.
  void restore(const elir_image* inputs, const elir_image* outputs, std::size_t count);
  void restore_fully(const elir_image* inputs, const elir_image* outputs, std::size_t count,
                     PixelSession& session);
  EnlargedPicture enlarged(const elir_image& image, bool bgr) const;
  void restore_tiles(const EnlargedPicture& picture, const elir_image& output, const Shape& shape,
                     PixelSession& session);

  // The tiles of a shape's size along one axis.
  Spans spans(std::size_t length, std::int64_t tile) const;

  Bundle bundle_;
  elir_fit fit_;
  bool force_;
  std::optional<NoiseField> noise_;  // none: it is a constant of the graph
  std::optional<std::size_t> tile_overlap_;
  Strength strength_;
  std::string backend_;
  std::string precision_;
  bool exact_batches_ = true;  // of the sessions
  std::unique_ptr<Pool> pool_;
};

}  // namespace elir::core
