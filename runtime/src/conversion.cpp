#include "conversion.hpp"

#include <algorithm>
#include <array>

#include "pixels.hpp"

namespace elir::core {
namespace {

constexpr std::size_t kBlock = 1024;  // pixels whose channels fit the first cache

constexpr std::array<float, 256> unit_floats() {
  std::array<float, 256> floats{};
  for (std::size_t value = 0; value < floats.size(); ++value) {
    floats[value] = static_cast<float>(value) / 255.0F;
  }
  return floats;
}
constexpr std::array<float, 256> kUnitFloats = unit_floats();

void assign(std::uint8_t pixel, std::uint8_t& value) { value = pixel; }
void assign(std::uint8_t pixel, float& value) { value = kUnitFloats[pixel]; }

void round_all(const std::uint8_t* values, std::size_t count, std::uint8_t* pixels) {
  std::copy_n(values, count, pixels);
}

// Written so that compilers vectorise it, which std::nearbyint prevents.
void round_all(const float* values, std::size_t count, std::uint8_t* pixels) {
  // 1.5 * 2^23: a sum with it is rounded to an integer, half to even.
  constexpr float kRoundingOffset = 12582912.0F;
  for (std::size_t i = 0; i < count; ++i) {
    const float positive = values[i] > 0.0F ? values[i] : 0.0F;  // NaN compares as false
    const float scaled = (positive < 1.0F ? positive : 1.0F) * 255.0F;
    pixels[i] = static_cast<std::uint8_t>(
        static_cast<std::int32_t>((scaled + kRoundingOffset) - kRoundingOffset));
  }
}

template <typename Value>
void interleave(const Value* values, std::size_t area, std::uint8_t* pixels) {
  std::array<std::array<std::uint8_t, kBlock>, kChannels> planes;
  for (std::size_t begin = 0; begin < area; begin += kBlock) {
    const std::size_t count = std::min(kBlock, area - begin);
    for (std::size_t c = 0; c < kChannels; ++c) {
      round_all(values + c * area + begin, count, planes[c].data());
    }
    std::uint8_t* const sink = pixels + kChannels * begin;
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < kChannels; ++c) sink[kChannels * i + c] = planes[c][i];
    }
  }
}

template <typename Value>
void to_tensor_of(const std::uint8_t* pixels, std::size_t area, Layout layout, Value* values) {
  const std::size_t across = layout == Layout::nchw ? 1 : kChannels;
  const std::size_t between = layout == Layout::nchw ? area : 1;
  for (std::size_t i = 0; i < area; ++i) {
    for (std::size_t c = 0; c < kChannels; ++c) {
      assign(pixels[kChannels * i + c], values[i * across + c * between]);
    }
  }
}

template <typename Value>
void to_pixels_of(const Value* values, std::size_t area, Layout layout, std::uint8_t* pixels) {
  if (layout == Layout::nchw) {
    interleave(values, area, pixels);
  } else {
    round_all(values, kChannels * area, pixels);
  }
}

}  // namespace

bool holds_pixels(const TensorSpec& spec) {
  return spec.dtype == Dtype::uint8 && spec.layout == Layout::nhwc;
}

void to_tensor(const std::uint8_t* pixels, std::size_t count, const TensorSpec& spec,
               void* tensor) {
  if (spec.dtype == Dtype::uint8) {
    to_tensor_of(pixels, count, spec.layout, static_cast<std::uint8_t*>(tensor));
  } else {
    to_tensor_of(pixels, count, spec.layout, static_cast<float*>(tensor));
  }
}

void to_pixels(const TensorSpec& spec, const void* tensor, std::size_t count,
               std::uint8_t* pixels) {
  if (spec.dtype == Dtype::uint8) {
    to_pixels_of(static_cast<const std::uint8_t*>(tensor), count, spec.layout, pixels);
  } else {
    to_pixels_of(static_cast<const float*>(tensor), count, spec.layout, pixels);
  }
}

}  // namespace elir::core
