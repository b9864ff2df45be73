// An input picture enlarged by the task's factor, in RGB, computed part by part as it is resized to
// the network's size or cut into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "manifest.hpp"
#include "pixels.hpp"
#include "resampling.hpp"

namespace elir::core {

// Working memory, reused for the next image so that a steady state does not allocate.
struct Scratch {
  Weights across;  // of a block
  Weights down;
  Weights whole;  // of a picture
  std::vector<std::int32_t> sums;
  std::vector<std::uint8_t> narrow;  // a picture or block after the first of two passes
  std::vector<std::uint8_t> band;
  std::vector<std::uint8_t> columns;
  std::vector<std::uint8_t> ramp;
};

class EnlargedPicture {
 public:
  // `bgr`: blue comes first in `image`.
  EnlargedPicture(ConstPixels image, bool bgr, int factor, Kernel kernel)
      : image_(image), bgr_(bgr), factor_(static_cast<std::size_t>(factor)), kernel_(kernel) {}

  std::size_t width() const { return image_.width * factor_; }
  std::size_t height() const { return image_.height * factor_; }

  // Fills `block` with the part from column `left` and row `top` on, in RGB. Uses `across`, `down`,
  // `sums` and `narrow` of `scratch`.
  void block(std::size_t left, std::size_t top, Pixels block, Scratch& scratch) const;

 private:
  ConstPixels image_;
  bool bgr_;
  std::size_t factor_;
  Kernel kernel_;
};

// Calls `work(top, rows)` for one band of the picture after the other, to save memory. `work` must
// leave the parts of `scratch` that EnlargedPicture::block uses, and `band`.
template <typename Work>
void for_bands(const EnlargedPicture& picture, Scratch& scratch, const Work& work) {
  constexpr std::size_t kBandPixels = std::size_t{1} << 16U;
  const std::size_t thickness =
      std::min(picture.height(), std::max<std::size_t>(1, kBandPixels / picture.width()));
  scratch.band.resize(kChannels * picture.width() * thickness);
  for (std::size_t top = 0; top < picture.height(); top += thickness) {
    const std::size_t rows = std::min(thickness, picture.height() - top);
    const Pixels band = packed(scratch.band.data(), picture.width(), rows);
    picture.block(0, top, band, scratch);
    work(top, band);
  }
}

// Resizes the whole picture to the size of `image`, without keeping proportions.
void resize_to(const EnlargedPicture& picture, Pixels image, Scratch& scratch);

// Resizes `image` to `output`. Any order of channels.
void resize_into(ConstPixels image, Pixels output, Scratch& scratch);

}  // namespace elir::core
