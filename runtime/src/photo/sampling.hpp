// Reading pictures between their pixels, in integers. elir_deploy/photo/sampling.py defines every
// step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../pixels.hpp"

namespace elir::core {

// A picture in the caller's memory, which is only read.
struct Photograph {
  ConstPixels pixels;
  bool bgr;  // blue comes first
};

inline constexpr int kWeightBits = 11;

// floor(n / d) for d > 0.
template <typename Integer>
constexpr Integer floor_divide(Integer n, Integer d) {
  return n / d - (n % d < 0 ? 1 : 0);
}

// Fills `region`, in RGB, with the part of a picture from (left, top) on, reduced by `factor`. The
// picture is continued by mirroring.
void reduce_region(const Photograph& picture, std::int64_t left, std::int64_t top,
                   std::int64_t factor, Pixels region);

// A square of whole numbers from -255 to 255 in three channels.
struct Change {
  std::size_t side = 0;
  std::vector<std::int16_t> values;
};

// `change` reduced by `factor`, with `margin` pixels of 0 around it.
Change reduce_change(const Change& change, std::size_t factor, std::size_t margin);

// The weights of 4 x 4 pixels, row by row, in units of 2^-kWeightBits.
using Taps = std::array<std::int32_t, 16>;

// By 32 * (phase of y) + (phase of x), in 1/32 pixel.
const std::array<Taps, 1024>& interpolation_taps();

// The value between pixels of three channels, in units of 2^-kWeightBits. `x` and `y` are in units
// of 1/32 pixel, whole pixels at their centres, from 1 to at most 3 less than the sides.
template <typename Value>
std::array<std::int32_t, kChannels> interpolate(const Value* source, std::size_t width,
                                                std::int64_t x, std::int64_t y) {
  const Taps& taps = interpolation_taps()[static_cast<std::size_t>((y & 31) << 5 | (x & 31))];
  const auto row = static_cast<std::size_t>((y >> 5) - 1);
  const auto column = static_cast<std::size_t>((x >> 5) - 1);
  const Value* pixels = source + kChannels * (row * width + column);
  std::array<std::int32_t, kChannels> sums{};
  for (std::size_t tap = 0; tap < taps.size(); ++tap) {
    const Value* pixel = pixels + kChannels * (tap / 4 * width + tap % 4);
    for (std::size_t c = 0; c < kChannels; ++c) sums[c] += taps[tap] * pixel[c];
  }
  return sums;
}

}  // namespace elir::core
