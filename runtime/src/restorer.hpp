// Restores images with a bundle opened on a backend.
#pragma once

#include <elir/elir.h>

#include <memory>
#include <string>

#include "opening.hpp"
#include "pool.hpp"

namespace elir::core {

// elir_params, validated and typed.
struct OpenOptions : OpeningOptions {
  elir_fit fit = ELIR_FIT_DEFAULT;
  bool force = false;
};

class Restorer {
 public:
  Restorer(const std::string& folder, const OpenOptions& options);

  const Manifest& manifest() const { return bundle_.manifest(); }
  const std::string& backend() const { return backend_; }
  const std::string& precision() const { return precision_; }
  elir_fit fit() const { return fit_; }
  std::size_t concurrency() const { return pool_->size(); }

  // Throws an image error, an unavailable error for memory that the backend does not support, or a
  // usage error if a face model would run in tiles.
  void check(const elir_image& input, const elir_image& output) const;

  // Requires images that pass check().
  void restore(const elir_image& input, const elir_image& output);

  // Checks all images, then restores all. If some fail, the others are still restored; throws the
  // error of the first that failed, with its index.
  void restore_batch(const elir_image* inputs, const elir_image* outputs, std::size_t count);

  // Runs the network on tensors.
  void run(const void* input, void* output);

 private:
  Bundle bundle_;
  elir_fit fit_;
  bool force_;
  std::string backend_;
  std::string precision_;
  std::unique_ptr<Pool> pool_;
};

}  // namespace elir::core
