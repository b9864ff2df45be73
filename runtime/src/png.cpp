#include "png.hpp"

#include "error.hpp"

#ifdef ELIR_WITH_PNG
#include <png.h>
#endif

namespace elir::core {

#ifdef ELIR_WITH_PNG

namespace {

struct Image : png_image {
  Image() : png_image{} { version = PNG_IMAGE_VERSION; }
  ~Image() { png_image_free(this); }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
};

}  // namespace

bool reads_png() { return true; }

std::vector<std::uint8_t> read_png(const std::filesystem::path& path, std::size_t width,
                                   std::size_t height) {
  Image image;
  const auto unreadable = [&] {
    return bundle_error(path.string(), " cannot be read: ", image.message);
  };
  if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
    throw unreadable();
  }
  if (image.width != width || image.height != height) {
    throw bundle_error(path.string(), " is ", image.width, "x", image.height, ", expected ", width,
                       "x", height);
  }
  image.format = PNG_FORMAT_RGB;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) == 0) {
    throw unreadable();
  }
  return pixels;
}

#else

bool reads_png() { return false; }

std::vector<std::uint8_t> read_png(const std::filesystem::path& path, std::size_t /*width*/,
                                   std::size_t /*height*/) {
  throw bundle_error(path.string(), " cannot be read: this libelir was built without PNG");
}

#endif

}  // namespace elir::core
