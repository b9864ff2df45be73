#include "pixels.hpp"

#include <cstring>
#include <utility>

namespace elir::core {

void copy(ConstPixels from, Pixels to, bool swapped) {
  if (from.width == 0) return;  // a tile too small to overlap: perhaps no memory at all
  for (std::size_t y = 0; y < from.height; ++y) {
    const std::uint8_t* source = from.row(y);
    std::uint8_t* sink = to.row(y);
    if (!swapped) {
      std::memcpy(sink, source, kChannels * from.width);
      continue;
    }
    for (std::size_t x = 0; x < kChannels * from.width; x += kChannels) {
      sink[x] = source[x + 2];
      sink[x + 1] = source[x + 1];
      sink[x + 2] = source[x];
    }
  }
}

void swap_channels(Pixels pixels) {
  for (std::size_t y = 0; y < pixels.height; ++y) {
    std::uint8_t* row = pixels.row(y);
    for (std::size_t x = 0; x < kChannels * pixels.width; x += kChannels) {
      std::swap(row[x], row[x + 2]);
    }
  }
}

}  // namespace elir::core
