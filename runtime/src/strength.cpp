#include "strength.hpp"

#include <cmath>

#include "error.hpp"

namespace elir::core {

Strength::Strength(double strength) {
  if (!(strength >= 0 && strength <= 1)) {  // nor is NaN
    throw usage_error("strength is ", strength, ", expected 0 to 1");
  }
  weight_ = static_cast<std::uint32_t>(std::floor(kFull * strength + 0.5));
}

void Strength::blend(ConstPixels before, Pixels after) const {
  for (std::size_t y = 0; y < after.height; ++y) {
    const std::uint8_t* const source = before.row(y);
    std::uint8_t* const sink = after.row(y);
    for (std::size_t i = 0; i < kChannels * after.width; ++i) {
      const std::uint32_t mixed = source[i] * (kFull - weight_) + sink[i] * weight_ + kFull / 2;
      sink[i] = static_cast<std::uint8_t>(mixed / kFull);
    }
  }
}

void Strength::blend(const EnlargedPicture& picture, Pixels restored, Scratch& scratch) const {
  if (weight_ == kFull) return;
  for_bands(picture, scratch, [&](std::size_t top, ConstPixels band) {
    const Pixels place = restored.part(0, top, band.width, band.height);
    none() ? copy(band, place) : blend(band, place);
  });
}

}  // namespace elir::core
