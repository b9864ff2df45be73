#include "pixels.hpp"

#include <cstring>
#include <utility>

namespace elir::core {

void copy(ConstPixels from, Pixels to) {
  if (from.width == 0) return;  // data may be null
  for (std::size_t y = 0; y < from.height; ++y) {
    std::memcpy(to.row(y), from.row(y), kChannels * from.width);
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
