#include "png.hpp"

#include "error.hpp"
#include "text.hpp"

#ifdef ELIR_WITH_PNG
#include <png.h>
#endif

namespace elir::core {

#ifdef ELIR_WITH_PNG

bool reads_png() { return true; }

std::vector<std::uint8_t> read_png(const std::filesystem::path& path, int side) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const auto fail = [&](const std::string& what) {
    png_image_free(&image);
    return bundle_error(text(path.string(), " ", what));
  };
  if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
    throw fail(text("cannot be read: ", image.message));
  }
  const auto wanted = static_cast<png_uint_32>(side);
  if (image.width != wanted || image.height != wanted) {
    throw fail(text("is ", image.width, "x", image.height, ", wanted ", side, "x", side));
  }
  image.format = PNG_FORMAT_RGB;
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(image));
  if (png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) == 0) {
    throw fail(text("cannot be read: ", image.message));
  }
  return pixels;
}

#else

bool reads_png() { return false; }

std::vector<std::uint8_t> read_png(const std::filesystem::path& path, int /*side*/) {
  throw bundle_error(path.string() + " cannot be read: this libelir was built without PNG");
}

#endif

}  // namespace elir::core
