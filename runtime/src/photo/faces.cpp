#include "faces.hpp"

#include <algorithm>
#include <cmath>

#include "../error.hpp"
#include "wide.hpp"

namespace elir::core {
namespace {

constexpr std::int64_t kMinEyeDistance = 5;  // in pixels
// Limit of coordinates in pixels, so that the arithmetic fits its types.
constexpr std::int64_t kMaxCoordinate = std::int64_t{1} << 20U;
// Landmarks of an aligned picture lie within its side divided by this of the template.
constexpr std::int64_t kAlignedWithin = 20;

[[noreturn]] void throw_out_of_range(double value) {
  throw image_error("a face has the coordinate ", value, ", expected -", kMaxCoordinate, " to ",
                    kMaxCoordinate);
}

std::int64_t read_units(double value) {
  if (!(std::fabs(value) <= static_cast<double>(kMaxCoordinate)))
    throw_out_of_range(value);  // or NaN
  return units(value);
}

double pixels(std::int64_t value) { return static_cast<double>(value) / kUnits; }

bool is_too_small(const Face& face) {
  const std::int64_t x = face.landmarks[1].x - face.landmarks[0].x;
  const std::int64_t y = face.landmarks[1].y - face.landmarks[0].y;
  const std::int64_t least = kMinEyeDistance * kUnits;
  return x * x + y * y < least * least;
}

double area(const Face& face) {
  const auto& [left, top, right, bottom] = face.box;
  return pixels(right - left) * pixels(bottom - top);
}

// Four times the squared distance.
double from_centre(const Face& face, std::size_t width, std::size_t height) {
  const auto& [left, top, right, bottom] = face.box;
  const double x = pixels(left) + pixels(right) - (static_cast<double>(width) - 1);
  const double y = pixels(top) + pixels(bottom) - (static_cast<double>(height) - 1);
  return x * x + y * y;
}

}  // namespace

std::int64_t units(double value) {
  return static_cast<std::int64_t>(std::nearbyint(value * kUnits));
}

Face read_face(const elir_face& face) {
  Face result;
  for (std::size_t i = 0; i < result.box.size(); ++i) result.box[i] = read_units(face.box[i]);
  for (std::size_t i = 0; i < result.landmarks.size(); ++i) {
    result.landmarks[i] = {read_units(face.landmarks[i][0]), read_units(face.landmarks[i][1])};
  }
  result.score = face.score;
  return result;
}

elir_face write_face(const Face& face) {
  elir_face result{};
  for (std::size_t i = 0; i < face.box.size(); ++i) result.box[i] = pixels(face.box[i]);
  for (std::size_t i = 0; i < face.landmarks.size(); ++i) {
    result.landmarks[i][0] = pixels(face.landmarks[i].x);
    result.landmarks[i][1] = pixels(face.landmarks[i].y);
  }
  result.score = face.score;
  result.restored = face.restored ? 1 : 0;
  result.reason = face.reason == nullptr ? "" : face.reason;
  return result;
}

void check_range(const Face& face) {
  const auto check = [](std::int64_t value) {
    if (value < -kMaxCoordinate * kUnits || value > kMaxCoordinate * kUnits) {
      throw_out_of_range(pixels(value));
    }
  };
  for (const std::int64_t edge : face.box) check(edge);
  for (const Point& point : face.landmarks) {
    check(point.x);
    check(point.y);
  }
}

void choose(std::vector<Face>& faces, elir_faces choice, std::size_t width, std::size_t height) {
  const bool largest = choice == ELIR_FACES_LARGEST;
  Face* best = nullptr;
  for (Face& face : faces) {
    if (is_too_small(face)) {
      face.reason = "too small: the eyes are less than 5 pixels apart";
    } else if (best == nullptr ||
               (largest ? area(face) > area(*best)
                        : from_centre(face, width, height) < from_centre(*best, width, height))) {
      best = &face;
    }
  }
  if (!largest && choice != ELIR_FACES_CENTRE) return;
  for (Face& face : faces) {
    if (face.reason != nullptr || &face == best) continue;
    face.reason =
        largest ? "it is not the largest face" : "it is not the face closest to the centre";
  }
}

bool is_aligned(const std::vector<Face>& faces, std::size_t width, std::size_t height,
                const Template& aligned) {
  const auto side = static_cast<std::int64_t>(std::max(width, height));
  const auto shorter = static_cast<std::int64_t>(std::min(width, height));
  if (faces.size() != 1 || kAlignedWithin * (side - shorter) > side) return false;
  const Wide limit = Wide{side} * aligned.size * kUnits;
  for (std::size_t i = 0; i < aligned.points.size(); ++i) {
    const Point& point = faces.front().landmarks[i];
    const Wide x = Wide{point.x} * aligned.size - Wide{units(aligned.points[i][0])} * side;
    const Wide y = Wide{point.y} * aligned.size - Wide{units(aligned.points[i][1])} * side;
    if (kAlignedWithin * kAlignedWithin * (x * x + y * y) > limit * limit) return false;
  }
  return true;
}

Points template_units(const Template& aligned, std::int64_t side) {
  const auto scaled = [&](double value) {
    return units(value * static_cast<double>(side) / static_cast<double>(aligned.size));
  };
  Points points{};
  for (std::size_t i = 0; i < points.size(); ++i) {
    points[i] = {scaled(aligned.points[i][0]), scaled(aligned.points[i][1])};
  }
  return points;
}

}  // namespace elir::core
