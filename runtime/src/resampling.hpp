// Bicubic resampling as defined by the manifest's `resize`, with the same bits as Pillow: a = -0.5,
// antialiased, weights as integers with 22 fractional bits; a pass along rows, rounded to 8 bits,
// then one along columns.
//
// Output pixels are independent of each other, so that a pass can be computed in parts. A pass that
// keeps the size keeps the pixels.
#pragma once

#include <cstdint>
#include <vector>

#include "pixels.hpp"

namespace elir::core {

// The weights of input pixels along an axis for a range of output pixels. Computing them again only
// allocates if they need more memory than ever before.
class Weights {
 public:
  // For the output pixels [first, first + count), where `from` pixels become `to`.
  void compute(std::size_t from, std::size_t to, std::size_t first, std::size_t count);
  void compute(std::size_t from, std::size_t to) { compute(from, to, 0, to); }

  struct Taps {
    std::size_t begin;  // first input pixel
    std::size_t count;
    const std::int32_t* weights;
  };
  Taps operator[](std::size_t i) const { return {begins_[i], counts_[i], &weights_[i * reach_]}; }
  std::size_t size() const { return begins_.size(); }

  // The input pixels that all of them read: [first(), last()).
  std::size_t first() const { return begins_.front(); }
  std::size_t last() const { return begins_.back() + counts_.back(); }

 private:
  std::size_t reach_ = 0;
  std::vector<std::size_t> begins_;
  std::vector<std::size_t> counts_;
  std::vector<std::int32_t> weights_;
  std::vector<double> exact_;  // weights of one output pixel before rounding
};

// The pass along rows: `to` is as wide as there are weights. `from` begins at the input pixel
// `offset` of the axis.
void resample_rows(ConstPixels from, Pixels to, const Weights& weights, std::size_t offset = 0);

// The pass along columns. `sums` is working memory.
void resample_columns(ConstPixels from, Pixels to, const Weights& weights,
                      std::vector<std::int32_t>& sums, std::size_t offset = 0);

}  // namespace elir::core
