// The C API of elir.h for C++17, with RAII and exceptions. Everything is inline, so a program and
// the library may be built by different compilers.
#pragma once

#include <elir/elir.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace elir {

class Error : public std::runtime_error {
 public:
  Error(elir_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  elir_status status() const noexcept { return status_; }

 private:
  elir_status status_;
};

// Throws the error of the call that returned `status`, unless it is ELIR_OK.
inline void check(elir_status status) {
  if (status != ELIR_OK) throw Error(status, elir_last_error());
}

// An image in host memory. `data` belongs to the caller; a stride of 0 means rows without padding.
inline elir_image image(void* data, int width, int height, std::ptrdiff_t stride = 0,
                        elir_format format = ELIR_RGB8) {
  return {data, width, height, stride, format, ELIR_MEMORY_HOST, nullptr};
}

// An RGB image in the memory of the restorer's GPU. `stream` is a cudaStream_t: see elir_image.
inline elir_image cuda_image(void* data, int width, int height, void* stream = nullptr,
                             std::ptrdiff_t stride = 0) {
  return {data, width, height, stride, ELIR_RGB8, ELIR_MEMORY_CUDA, stream};
}

struct Size {
  int width;
  int height;
};

// A bundle loaded on a backend. Movable, not copyable. For threads see elir.h.
class Restorer {
 public:
  explicit Restorer(const std::string& bundle, const elir_params& params = elir_default_params()) {
    check(elir_create(bundle.c_str(), &params, &restorer_));
  }
  // Waits for the last callback; callbacks may use this object until then.
  ~Restorer() { elir_destroy(restorer_); }
  Restorer(Restorer&& other) noexcept : restorer_(std::exchange(other.restorer_, nullptr)) {}
  Restorer& operator=(Restorer&& other) noexcept {
    Restorer source(std::move(other));
    std::swap(restorer_, source.restorer_);
    return *this;
  }

  elir_description describe() const {
    elir_description description{};
    description.struct_size = sizeof description;
    check(elir_describe(restorer_, &description));
    return description;
  }

  Size output_size(int width, int height) const {
    Size size{};
    check(elir_output_size(restorer_, width, height, &size.width, &size.height));
    return size;
  }

  void restore(const elir_image& input, const elir_image& output) {
    check(elir_restore(restorer_, &input, &output));
  }

  // The arrays must have the same length. For errors see elir_restore_batch.
  void restore_batch(const std::vector<elir_image>& inputs,
                     const std::vector<elir_image>& outputs) {
    if (inputs.size() != outputs.size()) {
      throw Error(ELIR_ERROR_USAGE, std::to_string(inputs.size()) + " inputs, " +
                                        std::to_string(outputs.size()) +
                                        " outputs, expected as many outputs as inputs");
    }
    check(elir_restore_batch(restorer_, inputs.data(), outputs.data(), inputs.size()));
  }

  // Returns false if the queue is full or the restorer is being destroyed. `done(status, message)`
  // must not throw.
  bool restore_async(const elir_image& input, const elir_image& output,
                     std::function<void(elir_status, const char*)> done) {
    auto callback =
        std::make_unique<std::function<void(elir_status, const char*)>>(std::move(done));
    const elir_status status =
        elir_restore_async(restorer_, &input, &output, &Restorer::finished, callback.get());
    if (status == ELIR_ERROR_BUSY) return false;
    check(status);
    static_cast<void>(callback.release());  // owned by finished() now
    return true;
  }

  // The faces in an image, those of the highest scores first.
  std::vector<elir_face> detect(const elir_image& image) {
    std::vector<elir_face> faces(ELIR_MAX_FACES);
    std::size_t count = 0;
    check(elir_detect(restorer_, &image, faces.data(), faces.size(), &count));
    faces.resize(count);
    return faces;
  }

  // Restores the faces of a photograph; returns all that were found. See elir_restore_photo.
  std::vector<elir_face> restore_photo(const elir_image& input, const elir_image& output,
                                       elir_faces faces = ELIR_FACES_AUTO,
                                       const elir_image* background = nullptr) {
    return restore_photo(input, output, {sizeof(elir_photo_params), faces, nullptr, 0, background});
  }

  // The same with the faces of another detector.
  std::vector<elir_face> restore_photo(const elir_image& input, const elir_image& output,
                                       const std::vector<elir_face>& faces,
                                       const elir_image* background = nullptr) {
    return restore_photo(
        input, output,
        {sizeof(elir_photo_params), ELIR_FACES_LIST, faces.data(), faces.size(), background});
  }

  // The same on a thread of the library, with params as for elir_restore_photo. Returns false if
  // the queue is full or the restorer is being destroyed. `done(status, message, faces)` must not
  // throw.
  bool restore_photo_async(
      const elir_image& input, const elir_image& output,
      std::function<void(elir_status, const char*, const std::vector<elir_face>&)> done,
      const elir_photo_params& params = {sizeof(elir_photo_params), ELIR_FACES_AUTO, nullptr, 0,
                                         nullptr}) {
    auto photo = std::make_unique<Photo>();
    photo->done = std::move(done);
    photo->faces.resize(capacity_for(params));
    const elir_status status = elir_restore_photo_async(
        restorer_, &params, &input, &output, photo->faces.data(), photo->faces.size(),
        &photo->count, &Restorer::finished_photo, photo.get());
    if (status == ELIR_ERROR_BUSY) return false;
    check(status);
    static_cast<void>(photo.release());  // owned by finished_photo() now
    return true;
  }

  void wait() { check(elir_wait(restorer_)); }

  elir_restorer* get() const noexcept { return restorer_; }

 private:
  struct Photo {
    std::function<void(elir_status, const char*, const std::vector<elir_face>&)> done;
    std::vector<elir_face> faces;
    std::size_t count = 0;
  };

  static std::size_t capacity_for(const elir_photo_params& params) {
    return params.face_count > ELIR_MAX_FACES ? params.face_count : ELIR_MAX_FACES;
  }

  static void finished_photo(void* user, elir_status status, const char* message) noexcept {
    const std::unique_ptr<Photo> photo(static_cast<Photo*>(user));
    photo->faces.resize(photo->count);
    if (photo->done) photo->done(status, message, photo->faces);
  }

  std::vector<elir_face> restore_photo(const elir_image& input, const elir_image& output,
                                       const elir_photo_params& params) {
    std::vector<elir_face> all(capacity_for(params));
    std::size_t count = 0;
    check(elir_restore_photo(restorer_, &params, &input, &output, all.data(), all.size(), &count));
    all.resize(count);
    return all;
  }

  static void finished(void* user, elir_status status, const char* message) noexcept {
    const std::unique_ptr<std::function<void(elir_status, const char*)>> done(
        static_cast<std::function<void(elir_status, const char*)>*>(user));
    if (*done) (*done)(status, message);
  }

  elir_restorer* restorer_ = nullptr;
};

}  // namespace elir
