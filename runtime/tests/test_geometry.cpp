// Compares the geometry with the Python runtime's results: tests/golden/make.py.
#include <gtest/gtest.h>

#include "golden.hpp"
#include "support.hpp"
#include "tiling.hpp"

namespace elir::core {
namespace {

using test::Golden;

Kernel kernel_of(const Golden& text) {
  return text == "none" ? Kernel::none : text == "nearest" ? Kernel::nearest : Kernel::bicubic;
}

// A golden case's picture and its output.
struct Case {
  explicit Case(const Golden& golden, std::uint64_t seed)
      : width(golden["width"]),
        height(golden["height"]),
        factor(golden["factor"]),
        pixels(test::pattern(width, height, seed)),
        picture(packed<const std::uint8_t>(pixels.data(), width, height), false,
                static_cast<int>(factor), kernel_of(golden["kernel"])),
        output(3 * picture.width() * picture.height()) {}

  Pixels out() { return packed(output.data(), picture.width(), picture.height()); }

  std::size_t width;
  std::size_t height;
  std::size_t factor;
  std::vector<std::uint8_t> pixels;
  EnlargedPicture picture;
  std::vector<std::uint8_t> output;
};

TEST(Geometry, Spans) {
  for (const Golden& golden : test::golden("geometry.json")["spans"]) {
    const std::size_t length = golden["length"];
    const std::size_t tile = golden["tile"];
    const Spans actual(length, tile, golden["step"], golden["overlap"]);
    Golden spans = Golden::array();
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const auto [start, begin, end, ramp] = actual[i];
      spans.push_back({start, begin, end, ramp});
    }
    EXPECT_EQ(spans, golden["spans"]) << golden;
  }
}

TEST(Geometry, Mirrored) {
  for (const Golden& golden : test::golden("geometry.json")["mirrored"]) {
    for (std::size_t i = 0; i < golden["count"]; ++i) {
      EXPECT_EQ(mirrored(i, golden["length"]), golden["indices"][i]);
    }
  }
}

TEST(Geometry, ResizeToModelAndBack) {
  Scratch scratch;  // shared: old content must not matter
  std::uint64_t seed = 0;
  for (const Golden& golden : test::golden("pictures.json")["resized"]) {
    Case test_case(golden, seed++);
    const std::size_t across = golden["to"][0];
    const std::size_t down = golden["to"][1];
    std::vector<std::uint8_t> image(3 * across * down);
    resize_to(test_case.picture, packed(image.data(), across, down), scratch);
    EXPECT_EQ(test::digest(image), golden["resized"]) << golden;
    resize_into(packed(image.data(), across, down), test_case.out(), scratch);
    EXPECT_EQ(test::digest(test_case.output), golden["back"]) << golden;
  }
}

TEST(Geometry, APassThatKeepsTheSizeKeepsThePixels) {
  for (const std::size_t side : {1U, 2U, 7U, 512U}) {
    auto pixels = test::pattern(side, side, 3);
    std::vector<std::uint8_t> same(pixels.size());
    Scratch scratch;
    resize_into(packed(pixels.data(), side, side), packed(same.data(), side, side), scratch);
    EXPECT_EQ(same, pixels) << side;
  }
}

}  // namespace
}  // namespace elir::core
