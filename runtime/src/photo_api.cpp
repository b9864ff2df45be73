// Implements the functions of elir.h for photographs.
#include <algorithm>
#include <cstring>

#include "c_api.hpp"
#include "embedded.hpp"
#include "guard.hpp"

using namespace elir::core;  // NOLINT: this file implements the C API

namespace {

// Up to the last field of the oldest header with this struct.
constexpr std::size_t kFirstPhotoParams =
    offsetof(elir_photo_params, background) + sizeof(elir_photo_params::background);

elir_photo_params read_params(const elir_photo_params* source) {
  elir_photo_params params{};
  if (source == nullptr) return params;
  const std::size_t size = source->struct_size;
  if (size < kFirstPhotoParams) {
    throw usage_error("elir_photo_params.struct_size is ", size, ", expected at least ",
                      kFirstPhotoParams, ": set it to sizeof(elir_photo_params)");
  }
  const char* const bytes = reinterpret_cast<const char*>(source);
  if (size > sizeof params &&
      std::any_of(bytes + sizeof params, bytes + size, [](char byte) { return byte != 0; })) {
    throw usage_error("elir_photo_params sets a field that this libelir ", kVersion,
                      " does not know: upgrade libelir");
  }
  std::memcpy(&params, source, std::min(size, sizeof params));
  return params;
}

// A copy of a caller's parameters.
class PhotoRequest {
 public:
  explicit PhotoRequest(const elir_photo_params& params) : params_(params) {
    if (params.face_list != nullptr) {
      faces_.assign(params.face_list, params.face_list + params.face_count);
    }
    if (params.background != nullptr) background_ = *params.background;
  }

  elir_photo_params params() const {
    elir_photo_params params = params_;
    if (params.face_list != nullptr) params.face_list = faces_.data();
    if (params.background != nullptr) params.background = &background_;
    return params;
  }

 private:
  elir_photo_params params_;
  std::vector<elir_face> faces_;
  elir_image background_{};
};

void check_capacity(const elir_face* faces, std::size_t capacity) {
  if (capacity > 0) check_not_null(faces, "faces");
}

void write_faces(const std::vector<Face>& from, elir_face* faces, std::size_t capacity,
                 std::size_t* count) {
  std::transform(from.begin(),
                 from.begin() + static_cast<std::ptrdiff_t>(std::min(capacity, from.size())), faces,
                 write_face);
  if (count != nullptr) *count = from.size();
}

}  // namespace

elir_status elir_detect(elir_restorer* restorer, const elir_image* image, elir_face* faces,
                        size_t capacity, size_t* count) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(image, "image");
    check_not_null(count, "count");
    check_capacity(faces, capacity);
    write_faces(restorer->photos.detect(*image), faces, capacity, count);
  });
}

elir_status elir_restore_photo(elir_restorer* restorer, const elir_photo_params* params,
                               const elir_image* input, const elir_image* output, elir_face* faces,
                               size_t capacity, size_t* count) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(input, "input");
    check_not_null(output, "output");
    check_capacity(faces, capacity);
    const elir_photo_params read = read_params(params);
    restorer->photos.check(read, *input, *output);
    write_faces(restorer->photos.restore(read, *input, *output), faces, capacity, count);
  });
}

elir_status elir_restore_photo_async(elir_restorer* restorer, const elir_photo_params* params,
                                     const elir_image* input, const elir_image* output,
                                     elir_face* faces, size_t capacity, size_t* count,
                                     elir_done_callback done, void* user) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(input, "input");
    check_not_null(output, "output");
    check_capacity(faces, capacity);
    const elir_photo_params read = read_params(params);
    restorer->photos.check(read, *input, *output);
    PhotoRequest request(read);  // copies only what was checked
    const auto restore = [=, request = std::move(request), &photos = restorer->photos,
                          from = *input, to = *output] {
      write_faces(photos.restore(request.params(), from, to), faces, capacity, count);
    };
    submit(*restorer, {*input, *output, done, user, restore});
  });
}
