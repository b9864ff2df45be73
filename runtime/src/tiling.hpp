// Runs a network of a fixed size on a picture of any size, in overlapping tiles.
//
// The integer arithmetic is that of elir_deploy/runtime/tiling.py, which has the formulas.
#pragma once

#include <cstddef>
#include <functional>

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

// Smallest overlap of tiles of `tile` pixels, and width of the ramp.
constexpr std::size_t overlap(std::size_t tile) { return tile / 8; }

// Number of tiles along an axis of `length` pixels, and the i-th of them.
std::size_t span_count(std::size_t length, std::size_t tile);
Span span(std::size_t length, std::size_t tile, std::size_t i);

// Maps an index to [0, `length`) by mirroring, edge pixel included.
std::size_t mirrored(std::size_t index, std::size_t length);

// Copies the picture's part from (left, top) on into `square`. A smaller picture is extended to the
// right and below by mirroring.
void cut_tile(const EnlargedPicture& picture, std::size_t left, std::size_t top, Pixels square,
              Scratch& scratch);

// Fills `output`, which has the picture's size. `input` is the network's RGB input; `run` restores
// it and returns the result in the output's order of channels, which is overwritten.
void run_tiled(const EnlargedPicture& picture, Pixels output, Pixels input,
               const std::function<Pixels()>& run, Scratch& scratch);

}  // namespace elir::core
