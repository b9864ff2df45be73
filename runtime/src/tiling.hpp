// Cuts a picture of any size into overlapping tiles of a network's size, and blends the results.
//
// The integer arithmetic is that of elir_deploy/runtime/tiling.py, which has the formulas.
#pragma once

#include <cstddef>

#include "picture.hpp"
#include "pixels.hpp"

namespace elir::core {

// A tile along one axis, in pixels of the picture.
struct Span {
  std::size_t start;  // where the tile begins
  std::size_t begin;  // first pixel of the output that the tile contributes to
  std::size_t end;    // begin of the next tile
  std::size_t ramp;   // pixels from `begin` on that are blended with the previous tile
};

// Overlap of tiles of `tile` pixels where the user chooses none.
constexpr std::size_t default_overlap(std::size_t tile) { return tile / 8; }

// The tiles along an axis of `length` pixels. They begin at multiples of `step`, of which `tile` is
// a multiple, and overlap by at least `overlap` pixels, at most half a tile.
class Spans {
 public:
  Spans(std::size_t length, std::size_t tile, std::size_t step, std::size_t overlap);

  std::size_t size() const { return count_; }
  std::size_t overlap() const { return overlap_; }
  Span operator[](std::size_t i) const;

 private:
  std::size_t start_of(std::size_t i) const;
  std::size_t begin_of(std::size_t i) const;

  std::size_t length_;
  std::size_t tile_;
  std::size_t step_;
  std::size_t overlap_;
  std::size_t count_;
};

// Maps an index to [0, `length`) by mirroring, edge pixel included.
std::size_t mirrored(std::size_t index, std::size_t length);

// Fills the rest of `whole` to the right of and below its first `width` x `height` pixels, by
// mirroring them.
void mirror(Pixels whole, std::size_t width, std::size_t height);

// Copies the picture's part from (left, top) on into `tile`. Beyond the picture's edges it is
// mirrored.
void cut_tile(const EnlargedPicture& picture, std::size_t left, std::size_t top, Pixels tile,
              Scratch& scratch);

// Blends the tiles of a picture into an output of its size.
class Blending {
 public:
  Blending(Pixels output, const Spans& rows, const Spans& columns, Scratch& scratch)
      : output_(output), rows_(rows), columns_(columns), scratch_(scratch) {}

  // Adds the next tile, row by row. Overwrites it.
  void add(Pixels tile);

 private:
  Pixels output_;
  const Spans& rows_;
  const Spans& columns_;
  Scratch& scratch_;
  std::size_t next_ = 0;
};

}  // namespace elir::core
