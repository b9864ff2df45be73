#include "detectors.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "../error.hpp"
#include "../text.hpp"
#include "faces.hpp"

namespace elir::core {
namespace {

constexpr std::size_t kMaxDetections = 20000;
constexpr double kMaxDistance = 65536;  // side of a box in pixels of the input

// The values of one cell of a grid.
class Cell {
 public:
  struct Channel {
    const float* data;
    std::size_t step;  // from one channel to the next
  };
  double operator()(std::size_t output, std::size_t channel) const {
    return channels[output].data[channel * channels[output].step];
  }

  std::array<Channel, 4> channels;
  double column;
  double row;
  double stride;
  double width;  // of the picture
  double height;
};

struct Output {
  const char* name;
  const char* meaning;
  std::int64_t channels;
};

struct Grid {
  std::int64_t stride;  // side of a cell in pixels of the input
  std::array<Output, 4> outputs;
};

// CenterFace: heat, log size (y, x), offset (y, x), landmarks (y, x), which are relative to a
// corner in the input
// ------------------------------------------------------------------------------

double centerface_score(const Cell& cell) { return cell(0, 0); }

void centerface_locate(const Cell& cell, Detection& face) {
  const std::array<double, 2> places = {cell.column, cell.row};
  const std::array<double, 2> limits = {cell.width, cell.height};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const double size = std::exp(cell(1, 1 - axis)) * cell.stride;
    const double centre = (places[axis] + cell(2, 1 - axis) + 0.5) * cell.stride;
    const double corner = std::min(std::max(centre - size / 2, 0.0), limits[axis]);
    face.box[axis] = corner;
    face.box[axis + 2] = std::min(corner + size, limits[axis]);
    for (std::size_t i = 0; i < face.landmarks.size(); ++i) {
      face.landmarks[i][axis] = cell(3, 2 * i + 1 - axis) * size + corner;
    }
  }
}

// YuNet: class, object, box, landmarks; centres and landmarks are relative to a cell's corner -----

double yunet_score(const Cell& cell) {
  const auto clipped = [](double value) { return std::min(std::max(value, 0.0), 1.0); };
  return std::sqrt(clipped(cell(0, 0)) * clipped(cell(1, 0)));
}

void yunet_locate(const Cell& cell, Detection& face) {
  const std::array<double, 2> places = {cell.column, cell.row};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const double centre = (places[axis] + cell(2, axis)) * cell.stride;
    const double size = std::exp(cell(2, axis + 2)) * cell.stride;
    face.box[axis] = centre - size / 2;
    face.box[axis + 2] = face.box[axis] + size;
    for (std::size_t i = 0; i < face.landmarks.size(); ++i) {
      face.landmarks[i][axis] = (places[axis] + cell(3, 2 * i + axis)) * cell.stride;
    }
  }
}

template <typename... Parts>
Failure broken(const std::string& decoder, const Parts&... what) {
  return bundle_error("face detector ", decoder, " returned ", what...,
                      ": export the bundle again");
}

}  // namespace

// A family of detectors.
struct Convention {
  std::string decoder;
  bool list;  // outputs are 1 x cells x channels, with the cells row by row; else as images
  std::vector<Grid> grids;
  double (*score)(const Cell& cell);
  void (*locate)(const Cell& cell, Detection& face);
};

namespace {

std::array<Output, 4> centerface_outputs() {
  return {
      {{"537", "heat", 1}, {"538", "log_size", 2}, {"539", "offset", 2}, {"540", "landmarks", 10}}};
}

std::array<Output, 4> yunet_outputs(const char* score, const char* cell, const char* box,
                                    const char* landmarks) {
  return {
      {{score, "class", 1}, {cell, "object", 1}, {box, "box", 4}, {landmarks, "landmarks", 10}}};
}

const std::vector<Convention>& conventions() {
  static const std::vector<Convention> all = {
      {"centerface", false, {{4, centerface_outputs()}}, centerface_score, centerface_locate},
      {"yunet",
       true,
       {{8, yunet_outputs("cls_8", "obj_8", "bbox_8", "kps_8")},
        {16, yunet_outputs("cls_16", "obj_16", "bbox_16", "kps_16")},
        {32, yunet_outputs("cls_32", "obj_32", "bbox_32", "kps_32")}},
       yunet_score,
       yunet_locate},
  };
  return all;
}

// The meanings of all outputs by name, as in a manifest.
std::map<std::string, std::string> outputs_of(const Convention& convention) {
  std::map<std::string, std::string> outputs;
  for (const Grid& grid : convention.grids) {
    for (const Output& output : grid.outputs) {
      outputs[output.name] = text(output.meaning, "_", grid.stride);
    }
  }
  return outputs;
}

const float* find_output(const Convention& convention, const std::vector<DetectorOutput>& outputs,
                         const Output& output, std::int64_t rows, std::int64_t columns) {
  const End expected{output.name, type_name(Dtype::float32),
                     convention.list
                         ? std::vector<std::int64_t>{1, rows * columns, output.channels}
                         : std::vector<std::int64_t>{1, output.channels, rows, columns}};
  const auto actual = std::find_if(outputs.begin(), outputs.end(), [&](const DetectorOutput& each) {
    return each.end.name == expected.name;
  });
  if (actual != outputs.end() && actual->end.dtype == expected.dtype &&
      actual->end.sides == expected.sides) {
    return static_cast<const float*>(actual->data);
  }
  throw bundle_error("face detector ", convention.decoder, ": the output ",
                     actual == outputs.end() ? text(expected.name, " is missing")
                                             : text("is ", actual->end.describe()),
                     ", expected ", expected.describe(), ": export the bundle again");
}

bool is_within(double value) { return std::fabs(value) <= kMaxDistance; }  // false for NaN

void check_size(const std::string& decoder, const Detection& face) {
  const auto& [left, top, right, bottom] = face.box;
  bool within = std::all_of(face.box.begin(), face.box.end(), is_within);
  for (const auto& [x, y] : face.landmarks) within = within && is_within(x) && is_within(y);
  if (!within) {
    throw broken(decoder, "a face further than ", kMaxDistance, " pixels away, or not finite");
  }
  if (right < left || bottom < top) throw broken(decoder, "a box of negative size");
  const auto& first = face.landmarks.front();
  if (std::all_of(face.landmarks.begin(), face.landmarks.end(), [&](const auto& point) {
        return units(point[0]) == units(first[0]) && units(point[1]) == units(first[1]);
      })) {
    throw broken(decoder, "a face with all landmarks in one point");
  }
}

// The detections of a grid; those of the grids before are in `detections`.
void decode_grid(const Convention& convention, const Grid& grid,
                 const std::vector<DetectorOutput>& outputs, const Cell& picture,
                 const PictureSize& size, double threshold, std::vector<Detection>& detections) {
  const std::int64_t rows = size.height / grid.stride;
  const std::int64_t columns = size.width / grid.stride;
  const auto cells = static_cast<std::size_t>(rows * columns);
  std::array<const float*, 4> values{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = find_output(convention, outputs, grid.outputs[i], rows, columns);
  }
  Cell cell = picture;
  cell.stride = static_cast<double>(grid.stride);
  const std::size_t before = detections.size();
  for (std::size_t index = 0; index < cells; ++index) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto channels = static_cast<std::size_t>(grid.outputs[i].channels);
      cell.channels[i] = {values[i] + index * (convention.list ? channels : 1),
                          convention.list ? 1 : cells};
    }
    const std::int64_t column = static_cast<std::int64_t>(index) % columns;
    const std::int64_t row = static_cast<std::int64_t>(index) / columns;
    cell.column = static_cast<double>(column);
    cell.row = static_cast<double>(row);
    Detection face{convention.score(cell), {}, {}};
    if (!std::isfinite(face.score)) throw broken(convention.decoder, "scores that are not finite");
    if (face.score < threshold || row >= static_cast<std::int64_t>(picture.height) / grid.stride ||
        column >= static_cast<std::int64_t>(picture.width) / grid.stride) {
      continue;
    }
    if (detections.size() - before == kMaxDetections) {
      throw image_error("the picture gives more than ", kMaxDetections,
                        " possible faces: search at a smaller long_side");
    }
    convention.locate(cell, face);
    detections.push_back(face);
  }
}

}  // namespace

const Convention& convention_of(const Detector& detector) {
  std::vector<std::string> names;
  for (const Convention& convention : conventions()) {
    names.push_back(convention.decoder);
    if (convention.decoder != detector.decoder) continue;
    if (detector.outputs == outputs_of(convention)) return convention;
    throw bundle_error("the outputs of the face detector are not those of ", detector.decoder,
                       ": export the bundle again");
  }
  throw bundle_error("the face detector's decoder is ", detector.decoder, ", expected one of ",
                     joined(names, ", "), ": export the bundle with this version");
}

std::vector<Detection> decode(const Convention& convention,
                              const std::vector<DetectorOutput>& outputs, std::int64_t height,
                              std::int64_t width, double threshold, const PictureSize& size) {
  Cell picture{};
  picture.width = static_cast<double>(width);
  picture.height = static_cast<double>(height);
  std::vector<Detection> detections;
  for (const Grid& grid : convention.grids) {
    decode_grid(convention, grid, outputs, picture, size, threshold, detections);
  }
  for (const Detection& face : detections) check_size(convention.decoder, face);
  return detections;
}

}  // namespace elir::core
