#include "alignment.hpp"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace elir::core {
namespace {

constexpr unsigned kBits = 20;  // after the point of a similarity's numbers
constexpr std::int64_t kHalf = std::int64_t{1} << (kBits - 1);
constexpr std::int64_t kLargest = 4;  // a square may be this many times as long as the picture
constexpr std::int64_t kMargin = 3;

struct Moments {
  Wide d = 0;
  Wide spread = 0;
  Wide p = 0;
  Wide q = 0;
};

Point sum(const Points& points) {
  Point total{0, 0};
  for (const Point& point : points) total = {total.x + point.x, total.y + point.y};
  return total;
}

Moments moments(const Points& square, const Points& landmarks) {
  const Point t = sum(square);
  const Point l = sum(landmarks);
  Moments result;
  for (std::size_t i = 0; i < square.size(); ++i) {
    const Wide u = 5 * square[i].x - t.x;
    const Wide v = 5 * square[i].y - t.y;
    const Wide x = 5 * landmarks[i].x - l.x;
    const Wide y = 5 * landmarks[i].y - l.y;
    result.d += u * u + v * v;
    result.spread += x * x + y * y;
    result.p += u * x + v * y;
    result.q += u * y - v * x;
  }
  return result;
}

std::int64_t quotient(Wide n, Wide d) { return static_cast<std::int64_t>(floor_divide(n, d)); }

// Half up.
std::int64_t rounded_quotient(std::int64_t value, std::int64_t d) {
  return quotient(2 * Wide{value} + d, 2 * Wide{d});
}

// A whole number below the least of x and y of a square's corners.
Point least_corner(const Similarity& similarity, std::int64_t side) {
  const auto& [a, b, x, y] = similarity;
  const std::int64_t edge = side - 1;
  const std::int64_t zero = 0;
  return {(x + std::min(zero, a * edge) + std::min(zero, -b * edge)) >> kBits,
          (y + std::min(zero, b * edge) + std::min(zero, a * edge)) >> kBits};
}

}  // namespace

std::int64_t Similarity::reduction() const {
  const Wide twice = square_root(4 * squared()) >> kBits;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>((twice + 1) / 2));
}

Similarity Similarity::inverse() const {
  const Wide n = squared();
  const std::int64_t inverse_a = quotient(Wide{a} * (Wide{1} << 41) + n, 2 * n);
  const std::int64_t inverse_b = quotient(-Wide{b} * (Wide{1} << 41) + n, 2 * n);
  const auto shifted = [](Wide value) {
    return static_cast<std::int64_t>((value + kHalf) >> kBits);
  };
  return {inverse_a, inverse_b, shifted(-(Wide{inverse_a} * x - Wide{inverse_b} * y)),
          shifted(-(Wide{inverse_b} * x + Wide{inverse_a} * y))};
}

Similarity Similarity::shrunk(std::int64_t scale) const {
  return {rounded_quotient(a, scale), rounded_quotient(b, scale),
          rounded_quotient(x + kHalf, scale) - kHalf, rounded_quotient(y + kHalf, scale) - kHalf};
}

Similarity Similarity::into_reduced(std::int64_t left, std::int64_t top,
                                    std::int64_t factor) const {
  const std::int64_t half = (factor - 1) * kHalf;
  const std::int64_t unit = std::int64_t{1} << kBits;
  return {rounded_quotient(a, factor), rounded_quotient(b, factor),
          rounded_quotient(x - left * unit - half, factor),
          rounded_quotient(y - top * unit - half, factor)};
}

const char* reason_not_alignable(const Points& square, const Points& landmarks, std::int64_t side,
                                 std::int64_t longest) {
  const Moments sums = moments(square, landmarks);
  const auto number = [](Wide value) { return static_cast<double>(value); };
  const double explained = number(sums.p) * number(sums.p) + number(sums.q) * number(sums.q);
  if (sums.spread == 0 || 4 * explained < number(sums.d) * number(sums.spread)) {
    return "its landmarks are not those of a face";
  }
  const Wide limit = kLargest * Wide{longest};
  if (explained * number(side) * number(side) >
      number(sums.d) * number(sums.d) * number(limit * limit)) {
    return "it is more than 4 times as large as the picture";
  }
  return nullptr;
}

Similarity fit(const Points& square, const Points& landmarks) {
  const Moments sums = moments(square, landmarks);
  const Point t = sum(square);
  const Point l = sum(landmarks);
  const std::int64_t a = quotient(sums.p * (Wide{1} << 21) + sums.d, 2 * sums.d);
  const std::int64_t b = quotient(sums.q * (Wide{1} << 21) + sums.d, 2 * sums.d);
  const Wide unit = Wide{1} << kBits;
  return {a, b, quotient(l.x * unit - Wide{a} * t.x + Wide{b} * t.y + 160, 320),
          quotient(l.y * unit - Wide{b} * t.x - Wide{a} * t.y + 160, 320)};
}

void crop(const Photograph& picture, const Similarity& similarity, Pixels square) {
  const auto side = static_cast<std::int64_t>(square.width);
  const std::int64_t factor = similarity.reduction();
  const Point corner = least_corner(similarity, side);
  const std::int64_t left = corner.x - kMargin * factor;
  const std::int64_t top = corner.y - kMargin * factor;
  const std::int64_t extent =
      (((std::abs(similarity.a) + std::abs(similarity.b)) * (side - 1)) >> kBits) + 2;
  const auto size = static_cast<std::size_t>((extent + factor - 1) / factor + 2 * kMargin + 1);
  std::vector<std::uint8_t> region(kChannels * size * size);
  reduce_region(picture, left, top, factor, packed(region.data(), size, size));
  const Similarity into = similarity.into_reduced(left, top, factor);
  constexpr std::int32_t kRound = 1 << (kWeightBits - 1);
  for (std::size_t v = 0; v < square.height; ++v) {
    std::uint8_t* sink = square.row(v);
    for (std::size_t u = 0; u < square.width; ++u, sink += kChannels) {
      const Point at = into.position(static_cast<std::int64_t>(u), static_cast<std::int64_t>(v));
      const auto values = interpolate(region.data(), size, at.x, at.y);
      for (std::size_t c = 0; c < kChannels; ++c) {
        sink[c] =
            static_cast<std::uint8_t>(std::clamp((values[c] + kRound) >> kWeightBits, 0, 255));
      }
    }
  }
}

}  // namespace elir::core
