// Non-owning views of pixels: 8 bits, three channels, any stride.
#pragma once

#include <cstddef>
#include <cstdint>

namespace elir::core {

inline constexpr std::size_t kChannels = 3;

// `Byte` is std::uint8_t or const std::uint8_t.
template <typename Byte>
struct View {
  Byte* data = nullptr;  // first byte of the top row
  std::ptrdiff_t stride = 0;
  std::size_t width = 0;
  std::size_t height = 0;

  Byte* row(std::size_t y) const { return data + static_cast<std::ptrdiff_t>(y) * stride; }
  Byte* at(std::size_t x, std::size_t y) const { return row(y) + kChannels * x; }

  View part(std::size_t left, std::size_t top, std::size_t across, std::size_t down) const {
    return {at(left, top), stride, across, down};
  }
  operator View<const Byte>() const { return {data, stride, width, height}; }  // NOLINT
};

using Pixels = View<std::uint8_t>;
using ConstPixels = View<const std::uint8_t>;

// A view of rows without padding.
template <typename Byte>
View<Byte> packed(Byte* data, std::size_t width, std::size_t height) {
  return {data, static_cast<std::ptrdiff_t>(kChannels * width), width, height};
}

// Copies to a view of the same size.
void copy(ConstPixels from, Pixels to);

// Swaps the first and the third channel.
void swap_channels(Pixels pixels);

}  // namespace elir::core
