// Aligning a face: the similarity from a square to the picture, and the crop.
// elir_deploy/photo/alignment.py has the formulas.
#pragma once

#include <cstdint>
#include <utility>

#include "faces.hpp"
#include "sampling.hpp"
#include "wide.hpp"

namespace elir::core {

// From (u, v) to (a u - b v + x, b u + a v + y); all numbers in units of 2^-20.
struct Similarity {
  std::int64_t a;
  std::int64_t b;
  std::int64_t x;
  std::int64_t y;

  // The squared scale, in units of 2^-40.
  Wide squared() const { return Wide{a} * a + Wide{b} * b; }

  // The scale rounded half up, at least 1: by how much what is read is reduced first.
  std::int64_t reduction() const;

  Similarity inverse() const;

  // The same square in a picture of 1 / `scale` the size, whose edges coincide.
  Similarity shrunk(std::int64_t scale) const;

  // The positions in a reduction that begins at (left, top).
  Similarity into_reduced(std::int64_t left, std::int64_t top, std::int64_t factor) const;

  // The position of (u, v) in units of 1/32 pixel.
  Point position(std::int64_t u, std::int64_t v) const {
    constexpr unsigned kShift = 15;
    constexpr std::int64_t kHalf = std::int64_t{1} << (kShift - 1);
    return {(a * u - b * v + x + kHalf) >> kShift, (b * u + a * v + y + kHalf) >> kShift};
  }
};

// Why landmarks cannot be aligned; null: they can. `longest` is the longer side of the picture.
const char* reason_not_alignable(const Points& square, const Points& landmarks, std::int64_t side,
                                 std::int64_t longest);

// The similarity from the points of a square to landmarks. reason_not_alignable says for which
// landmarks there is none.
Similarity fit(const Points& square, const Points& landmarks);

// Fills a square, in RGB, with what the picture shows under the similarity.
void crop(const Photograph& picture, const Similarity& similarity, Pixels square);

}  // namespace elir::core
