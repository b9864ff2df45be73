// Putting a restored face back: the change that the network made, under a soft mask.
// elir_deploy/photo/paste.py has the formulas.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../picture.hpp"
#include "alignment.hpp"

namespace elir::core {

// The mask's ellipse, in units of 1/32 pixel of the square.
class Ellipse {
 public:
  explicit Ellipse(std::int64_t side);

  // How much of the change is put back at a position in units of 1/32 pixel, 0 to 1024.
  std::int32_t mask(const Point& position) const;

  const Point& centre() const { return centre_; }

  struct Bounds {  // of pixels; right and bottom are exclusive
    std::int64_t left;
    std::int64_t top;
    std::int64_t right;
    std::int64_t bottom;
    bool empty() const { return top >= bottom || left >= right; }
  };
  // Those of the mask within a picture, to which the square is brought by `to`.
  Bounds bounds(const Similarity& to, std::size_t width, std::size_t height) const;

 private:
  Point centre_;
  std::int64_t across_;
  std::int64_t down_;
  std::int64_t per_across_;  // inverse squares
  std::int64_t per_down_;
};

// Finds what a network changed in squares of one size. For several threads.
class Comparison {
 public:
  explicit Comparison(std::int64_t side);

  const Ellipse& ellipse() const { return ellipse_; }

  struct Result {
    Change change;
    std::int32_t detail;  // how much is kept of detail that the square is too small for, 0 to 256
  };
  // What the network changed without its shift of the surroundings' tone. `square` is the crop,
  // `restored` the network's result, both without padding between rows; `similarity` leads to the
  // output.
  Result compare(const std::uint8_t* square, const std::uint8_t* restored,
                 const Similarity& similarity) const;

 private:
  std::int64_t weight(std::size_t pixel) const;
  void take_off_plane(Change& change, std::size_t channel) const;
  std::int32_t detail_kept(const std::uint8_t* square, const std::uint8_t* restored) const;

  std::size_t side_;
  Ellipse ellipse_;
  std::vector<std::int16_t> mask_;
  std::array<Wide, 3> squares_;  // weighted sums of 1, u^2 and v^2
};

// Puts a face back into `output`, whose first channel is blue if `bgr`. `enlarged` is the picture
// that the face was cropped from, of the output's size.
void paste(const EnlargedPicture& enlarged, const Similarity& similarity, const Ellipse& ellipse,
           const Comparison::Result& result, Pixels output, bool bgr, Scratch& scratch);

}  // namespace elir::core
