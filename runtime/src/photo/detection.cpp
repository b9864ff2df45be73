#include "detection.hpp"

#include <algorithm>
#include <numeric>

#include "../error.hpp"
#include "../picture.hpp"
#include "wide.hpp"

namespace elir::core {
namespace {

constexpr std::int64_t kMaxLongSide = 4096;

std::int64_t padded(std::int64_t side, std::int64_t multiple) {
  return (side + multiple - 1) / multiple * multiple;
}

// The shrunk picture, in RGB.
std::vector<std::uint8_t> shrink(const Photograph& picture, const Shrinking& shrinking) {
  const auto side = [&](std::size_t length) {
    return std::max<std::size_t>(1, length / static_cast<std::size_t>(shrinking.factor));
  };
  const std::size_t columns = side(picture.pixels.width);
  const std::size_t rows = side(picture.pixels.height);
  std::vector<std::uint8_t> reduced(kChannels * columns * rows);
  const Pixels large = packed(reduced.data(), columns, rows);
  reduce_region(picture, 0, 0, shrinking.factor, large);
  const auto width = static_cast<std::size_t>(shrinking.width);
  const auto height = static_cast<std::size_t>(shrinking.height);
  if (columns == width && rows == height) return reduced;
  std::vector<std::uint8_t> small(kChannels * width * height);
  Scratch scratch;
  resize_into(large, packed(small.data(), width, height), scratch);
  return small;
}

// The network's input: the shrunk picture at the top left, and black.
std::vector<float> letterboxed(const std::vector<std::uint8_t>& small, const Shrinking& shrinking,
                               const PictureSize& size, bool bgr) {
  const auto padded_width = static_cast<std::size_t>(size.width);
  const std::size_t plane = static_cast<std::size_t>(size.height) * padded_width;
  const auto width = static_cast<std::size_t>(shrinking.width);
  std::vector<float> tensor(kChannels * plane);
  for (std::size_t i = 0; i < small.size() / kChannels; ++i) {
    float* const sink = &tensor[i / width * padded_width + i % width];
    for (std::size_t c = 0; c < kChannels; ++c) {
      sink[c * plane] = small[kChannels * i + (bgr ? kChannels - 1 - c : c)];
    }
  }
  return tensor;
}

Wide area(const std::array<std::int64_t, 4>& box) {
  return Wide{box[2] - box[0]} * (box[3] - box[1]);
}

Wide shared_area(const std::array<std::int64_t, 4>& a, const std::array<std::int64_t, 4>& b) {
  const std::int64_t width = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const std::int64_t height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  return Wide{std::max<std::int64_t>(width, 0)} * std::max<std::int64_t>(height, 0);
}

Face face_of(const Detection& detection, double across, double down) {
  Face face;
  face.score = detection.score;
  for (std::size_t i = 0; i < face.box.size(); ++i) {
    face.box[i] = units(detection.box[i] * (i % 2 == 0 ? across : down));
  }
  for (std::size_t i = 0; i < face.landmarks.size(); ++i) {
    face.landmarks[i] = {units(detection.landmarks[i][0] * across),
                         units(detection.landmarks[i][1] * down)};
  }
  return face;
}

}  // namespace

Shrinking shrinking_of(std::int64_t height, std::int64_t width, std::int64_t long_side) {
  const std::int64_t factor = std::max<std::int64_t>(1, std::max(height, width) / long_side);
  const std::int64_t rows = std::max<std::int64_t>(1, height / factor);
  const std::int64_t columns = std::max<std::int64_t>(1, width / factor);
  const std::int64_t longer = std::max(rows, columns);
  const auto number = [](std::int64_t value) { return static_cast<double>(value); };
  if (longer <= long_side) return {factor, rows, columns, number(factor), number(factor)};
  const std::int64_t shorter =
      std::max<std::int64_t>(1, (2 * std::min(rows, columns) * long_side + longer) / (2 * longer));
  const std::int64_t down = rows >= columns ? long_side : shorter;
  const std::int64_t across = rows >= columns ? shorter : long_side;
  return {factor, down, across, number(factor * columns) / number(across),
          number(factor * rows) / number(down)};
}

PictureSize input_size(const Detector& detector, std::int64_t height, std::int64_t width) {
  return {padded(height, detector.multiple), padded(width, detector.multiple)};
}

void check_long_side(const Detector& detector, std::int64_t long_side) {
  if (long_side >= detector.multiple && long_side <= kMaxLongSide) return;
  throw usage_error("the detector's long side is ", long_side, ", expected ", detector.multiple,
                    " to ", kMaxLongSide);
}

std::vector<Face> find_faces(const Photograph& picture, const Detector& detector,
                             DetectorNetwork& network, std::int64_t long_side) {
  const Shrinking shrinking =
      shrinking_of(static_cast<std::int64_t>(picture.pixels.height),
                   static_cast<std::int64_t>(picture.pixels.width), long_side);
  const auto [height, width] = input_size(detector, shrinking.height, shrinking.width);
  const auto size = network.size_for({height, width});
  if (!size) {
    throw unavailable_error("the face detector takes no picture of ", width, "x", height,
                            ": search at a smaller long_side");
  }
  std::vector<float> tensor =
      letterboxed(shrink(picture, shrinking), shrinking, *size, detector.bgr);
  const std::vector<Detection> detections =
      decode(convention_of(detector), network.run(tensor.data(), size->height, size->width), height,
             width, detector.score_threshold, *size);
  return suppress(detections, detector.overlap_threshold, shrinking.across, shrinking.down);
}

std::vector<Face> suppress(const std::vector<Detection>& detections, double overlap, double across,
                           double down) {
  std::vector<std::size_t> alive(detections.size());
  std::iota(alive.begin(), alive.end(), std::size_t{0});
  std::stable_sort(alive.begin(), alive.end(), [&](std::size_t a, std::size_t b) {
    return detections[a].score > detections[b].score;
  });
  std::vector<Face> all;
  for (const Detection& detection : detections) all.push_back(face_of(detection, across, down));
  std::vector<Face> faces;
  while (!alive.empty() && faces.size() <= kMaxFaces) {
    const Face& best = all[alive.front()];
    check_range(best);
    faces.push_back(best);
    const auto hidden = [&](std::size_t index) {
      const auto& other = all[index].box;
      const Wide shared = shared_area(best.box, other);
      const Wide both = area(best.box) + area(other) - shared;
      return static_cast<double>(shared) > overlap * static_cast<double>(both);
    };
    alive.erase(std::remove_if(alive.begin() + 1, alive.end(), hidden), alive.end());
    alive.erase(alive.begin());
  }
  return faces;
}

}  // namespace elir::core
