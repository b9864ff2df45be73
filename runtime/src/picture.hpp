// A picture as the network sees it, of which only the parts asked for are ever made: enlarged by
// the task's factor, RGB, resized to the model's square or cut into tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "manifest.hpp"
#include "pixels.hpp"
#include "resampling.hpp"

namespace elir::core {

// Working memory, kept from one image to the next so that a steady state allocates nothing.
struct Scratch {
  Weights across;  // of a block
  Weights down;
  Weights whole;  // of a picture
  std::vector<std::int32_t> sums;
  std::vector<std::uint8_t> narrow;  // a picture or block after the first of two passes
  std::vector<std::uint8_t> band;
  std::vector<std::uint8_t> square;
  std::vector<std::uint8_t> carried;
};

class EnlargedPicture {
 public:
  // `bgr`: blue comes first in `image`.
  EnlargedPicture(ConstPixels image, bool bgr, int factor, Kernel kernel)
      : image_(image), bgr_(bgr), factor_(static_cast<std::size_t>(factor)), kernel_(kernel) {}

  std::size_t width() const { return image_.width * factor_; }
  std::size_t height() const { return image_.height * factor_; }

  // The part from column `left` and row `top` on, as large as `block`. RGB. Uses `scratch`'s
  // `across`, `down`, `sums` and
  // `narrow`.
  void block(std::size_t left, std::size_t top, Pixels block, Scratch& scratch) const;

 private:
  ConstPixels image_;
  bool bgr_;
  std::size_t factor_;
  Kernel kernel_;
};

// The whole picture, whatever its proportions, resized to fill `square`.
void resize_to_square(const EnlargedPicture& picture, Pixels square, Scratch& scratch);

// `image` resized to fill `output`. Any order of channels.
void resize_into(ConstPixels image, Pixels output, Scratch& scratch);

}  // namespace elir::core
