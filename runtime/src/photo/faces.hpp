// A face in a picture, and which faces are restored: see elir_deploy/photo/faces.py.
#pragma once

#include <elir/elir.h>

#include <array>
#include <cstdint>
#include <vector>

#include "../manifest.hpp"

namespace elir::core {

inline constexpr std::int64_t kUnits = 64;  // in a pixel

// In units of 1/64 pixel.
struct Point {
  std::int64_t x;
  std::int64_t y;
};
using Points = std::array<Point, 5>;

struct Face {
  std::array<std::int64_t, 4> box{};  // left, top, right, bottom, in units of 1/64 pixel
  Points landmarks{};
  double score = 0;
  bool restored = false;
  const char* reason = nullptr;  // a literal; why it is not restored, null: it is, or nobody tried
};

// `value` in units of 1/64 pixel, rounded half to even.
std::int64_t units(double value);

// Throws an image error if a coordinate is not finite or out of range.
Face read_face(const elir_face& face);
elir_face write_face(const Face& face);

// Throws an image error if a coordinate, in units of 1/64 pixel, is out of range.
void check_range(const Face& face);

// Sets the reasons of the faces that are not to be restored. `choice` is all, largest or centre.
void choose(std::vector<Face>& faces, elir_faces choice, std::size_t width, std::size_t height);

// Whether a picture is an aligned square already.
bool is_aligned(const std::vector<Face>& faces, std::size_t width, std::size_t height,
                const Template& aligned);

// The template's points in a square of `side` pixels.
Points template_units(const Template& aligned, std::int64_t side);

}  // namespace elir::core
