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
    Golden spans = Golden::array();
    for (std::size_t i = 0; i < span_count(length, tile); ++i) {
      const Span s = span(length, tile, i);
      spans.push_back({s.start, s.begin, s.end, s.ramp});
    }
    EXPECT_EQ(spans, golden["spans"]) << length << " in tiles of " << tile;
  }
}

TEST(Geometry, Mirrored) {
  for (const Golden& golden : test::golden("geometry.json")["mirrored"]) {
    for (std::size_t i = 0; i < golden["count"]; ++i) {
      EXPECT_EQ(mirrored(i, golden["length"]), golden["indices"][i]);
    }
  }
}

TEST(Geometry, ResizeToSquareAndBack) {
  Scratch scratch;  // shared: old content must not matter
  std::uint64_t seed = 0;
  for (const Golden& golden : test::golden("pictures.json")["squares"]) {
    Case test_case(golden, seed++);
    const std::size_t side = golden["side"];
    std::vector<std::uint8_t> square(3 * side * side);
    resize_to_square(test_case.picture, packed(square.data(), side, side), scratch);
    EXPECT_EQ(test::digest(square), golden["square"]) << golden;
    resize_into(packed(square.data(), side, side), test_case.out(), scratch);
    EXPECT_EQ(test::digest(test_case.output), golden["back"]) << golden;
  }
}

TEST(Geometry, Tiled) {
  Scratch scratch;
  std::uint64_t seed = 0;
  for (const Golden& golden : test::golden("pictures.json")["tiled"]) {
    Case test_case(golden, seed++);
    const std::size_t tile = golden["tile"];
    std::vector<std::uint8_t> input(3 * tile * tile);
    std::vector<std::uint8_t> output(3 * tile * tile);
    const auto run = [&] {
      test::reference_model(input.data(), output.data(), tile);
      return packed(output.data(), tile, tile);
    };
    run_tiled(test_case.picture, test_case.out(), packed(input.data(), tile, tile), run, scratch);
    EXPECT_EQ(test::digest(test_case.output), golden["output"]) << golden;
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
