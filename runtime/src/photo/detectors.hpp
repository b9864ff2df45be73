// Face detectors as data: what a network's outputs mean, and how faces are read from them. See
// elir_deploy/photo/detectors.py.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../backend.hpp"

namespace elir::core {

// What a detector may have seen, before overlapping ones are suppressed, in pixels of the input.
struct Detection {
  double score;
  std::array<double, 4> box;  // left, top, right, bottom
  std::array<std::array<double, 2>, 5> landmarks;
};

struct Convention;

// Throws a bundle error if the decoder is not known.
const Convention& convention_of(const Detector& detector);

// The detections that reach the detector's threshold in a picture of `height` x `width` pixels,
// which lies at the top left of the network's input of `size`. Throws a bundle error if outputs are
// missing or of other shapes, are not finite, or say that there are too many faces or faces of
// absurd sizes.
std::vector<Detection> decode(const Convention& convention,
                              const std::vector<DetectorOutput>& outputs, std::int64_t height,
                              std::int64_t width, double threshold, const PictureSize& size);

}  // namespace elir::core
