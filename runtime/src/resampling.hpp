// Bicubic resampling to the bit as the bundle's `resize` asks for it, which is how Pillow does it:
// a = -0.5, antialiased, weights as integers of 22 fractional bits, one pass along each row rounded
// to 8 bits, then one along each column.
//
// A pass treats its rows (or columns) independently and each output pixel by itself, so both can be
// computed in parts. One that keeps the size keeps the pixels.
#pragma once

#include <cstdint>
#include <vector>

#include "pixels.hpp"

namespace elir::core {

// What a range of output pixels takes from an axis of input pixels. May be computed again and
// again, which allocates only where it gets larger than ever before.
class Weights {
 public:
  // Of the output pixels `first`, ..., `first + count - 1` where `from` pixels become `to`.
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
  std::vector<double> exact_;  // of one output pixel, before rounding
};

// One pass along each row: `to` is as wide as there are weights. `from` begins at the input pixel
// `offset` of the axis.
void resample_rows(ConstPixels from, Pixels to, const Weights& weights, std::size_t offset = 0);

// One pass along each column. `sums` is working memory.
void resample_columns(ConstPixels from, Pixels to, const Weights& weights,
                      std::vector<std::int32_t>& sums, std::size_t offset = 0);

}  // namespace elir::core
