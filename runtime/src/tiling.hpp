// Running a model of one fixed size over a picture of any size, in overlapping tiles.
//
// The arithmetic is elir_deploy/runtime/tiling.py's, all in integers; its comment has the formulas.
#pragma once

#include <cstddef>
#include <functional>

#include "picture.hpp"
#include "pixels.hpp"

namespace elir::core {

// A tile along one axis, in pixels of the picture.
struct Span {
  std::size_t start;  // where the tile begins
  std::size_t begin;  // the first pixel that is its own or blended
  std::size_t end;    // one past the last before the next tile takes over
  std::size_t ramp;   // pixels from `begin` on that are blended with the tile before
};

// Least overlap of tiles of `tile` pixels, and width of the ramp.
constexpr std::size_t overlap(std::size_t tile) { return tile / 8; }

// How many tiles an axis of `length` pixels takes, and the i-th of them.
std::size_t span_count(std::size_t length, std::size_t tile);
Span span(std::size_t length, std::size_t tile, std::size_t i);

// Of an index from 0 to any, brought into `length` pixels by mirroring, edge pixel included.
std::size_t mirrored(std::size_t index, std::size_t length);

// The picture's part from (left, top) on into `square`; a smaller picture is continued to the right
// and below by mirroring.
void cut_tile(const EnlargedPicture& picture, std::size_t left, std::size_t top, Pixels square,
              Scratch& scratch);

// Fills `output`, which has the picture's size. `input` is where a model takes a square, RGB, and
// `run` restores it: what it gives is in the output's order of channels and may be written.
void run_tiled(const EnlargedPicture& picture, Pixels output, Pixels input,
               const std::function<Pixels()>& run, Scratch& scratch);

}  // namespace elir::core
