// Finding faces: the picture is fitted into the detector's input, its outputs become faces. See
// elir_deploy/photo/detection.py.
#pragma once

#include <cstdint>
#include <vector>

#include "../backend.hpp"
#include "detectors.hpp"
#include "faces.hpp"
#include "sampling.hpp"

namespace elir::core {

inline constexpr std::size_t kMaxFaces = 1024;  // in a picture

// How a picture is shrunk.
struct Shrinking {
  std::int64_t factor;  // by which it is reduced first
  std::int64_t height;  // of the shrunk picture
  std::int64_t width;
  double across;  // pixels of the picture in one of the shrunk one
  double down;
};

Shrinking shrinking_of(std::int64_t height, std::int64_t width, std::int64_t long_side);

// The size of the smallest input of the detector, whose sides are multiples, that holds a picture.
PictureSize input_size(const Detector& detector, std::int64_t height, std::int64_t width);

// Throws a usage error if the longer side that pictures are shrunk to is out of range.
void check_long_side(const Detector& detector, std::int64_t long_side);

// The faces in a picture, those of the highest scores first, at most one more than kMaxFaces.
// Throws a bundle error if the network's outputs are invalid, and an image error if there are too
// many, or the picture is too large for coordinates of faces, and an unavailable error if the
// network takes no picture of this size.
std::vector<Face> find_faces(const Photograph& picture, const Detector& detector,
                             DetectorNetwork& network, std::int64_t long_side);

// The faces of detections, in the picture's coordinates, without those that overlap better ones.
std::vector<Face> suppress(const std::vector<Detection>& detections, double overlap, double across,
                           double down);

}  // namespace elir::core
