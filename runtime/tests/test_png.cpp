// Reading a bundle's pictures, and libpng's memory after errors.
#include <gtest/gtest.h>
#include <malloc.h>
#include <png.h>

#include "error.hpp"
#include "png.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

class PngTest : public ::testing::Test {
 protected:
  // Writes a picture of `side` by `side` pixels, truncated to `end` bytes.
  std::filesystem::path written(std::size_t side, std::size_t end = SIZE_MAX) const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = image.height = static_cast<png_uint_32>(side);
    image.format = PNG_FORMAT_RGB;
    const auto pixels = pattern(side);
    png_alloc_size_t size = 0;
    EXPECT_NE(png_image_write_to_memory(&image, nullptr, &size, 0, pixels.data(), 0, nullptr), 0);
    std::string content(size, ' ');
    EXPECT_NE(
        png_image_write_to_memory(&image, content.data(), &size, 0, pixels.data(), 0, nullptr), 0);
    const auto path = folder_.path() / "picture.png";
    test::write_file(path, content.substr(0, end));
    return path;
  }
  static std::vector<std::uint8_t> pattern(std::size_t side) {
    return test::pattern(side, side, 0);
  }

  static std::string refusal(const std::filesystem::path& path, std::size_t side) {
    try {
      read_png(path, side, side);
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
      return failure.what();
    }
    return "none";
  }

  test::Folder folder_;
};

TEST_F(PngTest, IsRead) { EXPECT_EQ(read_png(written(8), 8, 8), pattern(8)); }

TEST_F(PngTest, ErrorsSayWhy) {
  const auto path = written(8);
  EXPECT_EQ(refusal(path, 9), path.string() + " is 8x8, expected 9x9");
  EXPECT_EQ(refusal(written(8, 60), 8).find(path.string() + " cannot be read: "), 0U);
  EXPECT_EQ(refusal(written(8, 5), 8).find(path.string() + " cannot be read: "), 0U);
}

// AddressSanitizer finds a single leak; without it, malloc shows many.
TEST_F(PngTest, ErrorsReleaseMemory) {
  const auto grown = [](const std::filesystem::path& path, std::size_t side) {
    refusal(path, side);
    const auto before = mallinfo2().uordblks;
    for (int i = 0; i < 100; ++i) refusal(path, side);
    return static_cast<double>(mallinfo2().uordblks) - static_cast<double>(before);
  };
  EXPECT_LT(grown(written(8), 9), 10000);
  EXPECT_LT(grown(written(8, 60), 8), 10000);
  EXPECT_LT(grown(written(8, 5), 8), 10000);
}

}  // namespace
}  // namespace elir::core
