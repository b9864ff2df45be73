// Conversions between pixels and tensors, compared with a plain implementation.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "conversion.hpp"

namespace elir::core {
namespace {

std::uint8_t plain_pixel(float value) {
  if (std::isnan(value)) return 0;
  const float clipped = std::fmin(std::fmax(value, 0.0F), 1.0F);
  return static_cast<std::uint8_t>(std::nearbyint(clipped * 255.0F));
}

TensorSpec spec_of(Dtype dtype, Layout layout) {
  TensorSpec spec{};
  spec.dtype = dtype;
  spec.layout = layout;
  return spec;
}

std::size_t place(Layout layout, std::size_t pixel, std::size_t channel, std::size_t area) {
  return layout == Layout::nhwc ? 3 * pixel + channel : channel * area + pixel;
}

class ConversionTest : public ::testing::TestWithParam<Layout> {};

// Sides whose areas are not multiples of block or vector sizes.
constexpr std::size_t kSides[] = {1, 7, 33, 64, 101};

TEST_P(ConversionTest, OfBytes) {
  const TensorSpec spec = spec_of(Dtype::uint8, GetParam());
  std::minstd_rand random(1);
  for (const std::size_t side : kSides) {
    const std::size_t area = side * side;
    std::vector<std::uint8_t> pixels(3 * area);
    for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random());
    std::vector<std::uint8_t> tensor(3 * area);
    to_tensor(pixels.data(), area, spec, tensor.data());
    for (std::size_t i = 0; i < area; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(tensor[place(GetParam(), i, c, area)], pixels[3 * i + c]);
      }
    }
    std::vector<std::uint8_t> back(3 * area);
    to_pixels(spec, tensor.data(), area, back.data());
    EXPECT_EQ(back, pixels);
  }
}

TEST_P(ConversionTest, OfFloats) {
  const TensorSpec spec = spec_of(Dtype::float32, GetParam());
  std::minstd_rand random(2);
  std::uniform_real_distribution<float> values(-0.2F, 1.2F);
  for (const std::size_t side : kSides) {
    const std::size_t area = side * side;
    std::vector<std::uint8_t> pixels(3 * area);
    for (auto& pixel : pixels) pixel = static_cast<std::uint8_t>(random());
    std::vector<float> tensor(3 * area);
    to_tensor(pixels.data(), area, spec, tensor.data());
    for (std::size_t i = 0; i < area; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        const float expected = static_cast<float>(pixels[3 * i + c]) / 255.0F;
        ASSERT_EQ(tensor[place(GetParam(), i, c, area)], expected);
      }
    }
    for (float& value : tensor) value = values(random);
    to_pixels(spec, tensor.data(), area, pixels.data());
    for (std::size_t i = 0; i < area; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(pixels[3 * i + c], plain_pixel(tensor[place(GetParam(), i, c, area)]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ConversionTest, ::testing::Values(Layout::nhwc, Layout::nchw));

// Every 1021st float, including NaNs and infinities, and all midpoints between pixel values with
// their neighbours.
TEST(Conversion, RoundsAnyFloat) {
  constexpr std::size_t kSide = 64;
  const TensorSpec spec = spec_of(Dtype::float32, Layout::nchw);
  std::vector<float> floats;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 1021) {
    const auto pattern = static_cast<std::uint32_t>(bits);
    float value = 0;
    std::memcpy(&value, &pattern, sizeof value);
    floats.push_back(value);
  }
  for (int half = 1; half < 510; half += 2) {
    const float value = static_cast<float>(half) / 510.0F;
    floats.insert(floats.end(), {std::nextafter(value, 0.0F), value, std::nextafter(value, 1.0F)});
  }
  floats.push_back(std::numeric_limits<float>::quiet_NaN());
  floats.push_back(-std::numeric_limits<float>::infinity());
  floats.push_back(std::numeric_limits<float>::infinity());
  floats.resize((floats.size() / (3 * kSide * kSide) + 1) * 3 * kSide * kSide);
  std::vector<std::uint8_t> pixels(3 * kSide * kSide);
  constexpr std::size_t kArea = kSide * kSide;
  for (std::size_t begin = 0; begin < floats.size(); begin += pixels.size()) {
    to_pixels(spec, floats.data() + begin, kArea, pixels.data());
    for (std::size_t i = 0; i < kArea; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        const float value = floats[begin + c * kArea + i];
        ASSERT_EQ(pixels[3 * i + c], plain_pixel(value)) << value;
      }
    }
  }
}

}  // namespace
}  // namespace elir::core
