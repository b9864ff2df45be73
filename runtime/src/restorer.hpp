// A bundle opened on a backend, from picture to picture.
#pragma once

#include <elir/elir.h>

#include <memory>
#include <string>

#include "opening.hpp"
#include "pool.hpp"

namespace elir::core {

// elir_params, checked and with types.
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

  // Throws an image error, an unavailable error for memory that the backend does not take, or a
  // usage error where a face model would run in tiles.
  void check(const elir_image& input, const elir_image& output) const;

  // Of images that were checked.
  void restore(const elir_image& input, const elir_image& output);

  // Checks all images before the first is restored. Throws, with its place in the array, what the
  // first of those that failed threw; the others are restored.
  void restore_all(const elir_image* inputs, const elir_image* outputs, std::size_t count);

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
