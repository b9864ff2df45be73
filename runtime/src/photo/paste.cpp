#include "paste.hpp"

#include <algorithm>

namespace elir::core {
namespace {

constexpr std::int64_t kFull = 1024;
constexpr std::int64_t kUnit = 4096;
constexpr std::int64_t kInner = 3 * kUnit / 4;
constexpr std::int32_t kAllDetail = 256;
constexpr std::int64_t kMargin = 3;
constexpr std::size_t kBandPixels = std::size_t{1} << 15U;  // that are put back at a time

// The mask by e of paste.py, 0 to kUnit.
const std::array<std::int16_t, kUnit + 1>& ramp() {
  static const auto values = [] {
    std::array<std::int16_t, kUnit + 1> all{};
    for (std::int64_t e = 0; e <= kUnit; ++e) {
      const auto root = static_cast<std::int64_t>(square_root(kUnit * e));
      const std::int64_t t = std::min(kUnit, (kUnit - root) * kUnit / (kUnit - kInner));
      all[static_cast<std::size_t>(e)] =
          static_cast<std::int16_t>((t * t * (3 * kUnit - 2 * t) + (1 << 25)) >> 26);
    }
    return all;
  }();
  return values;
}

std::int16_t limited(std::int64_t change) {
  return static_cast<std::int16_t>(std::clamp<std::int64_t>(change, -255, 255));
}

// Puts one pixel back. `values` are the change there, in units of 2^-kWeightBits.
void add(std::uint8_t* sink, const std::uint8_t* picture,
         const std::array<std::int32_t, kChannels>& values, std::int32_t m, std::int32_t detail,
         bool bgr) {
  for (std::size_t c = 0; c < kChannels; ++c) {
    std::uint8_t& place = sink[bgr ? kChannels - 1 - c : c];
    const std::int32_t e = picture[c];
    const std::int32_t change = (1 << kWeightBits) * (e - place) -
                                (1 << (kWeightBits - 8)) * (kAllDetail - detail) * (e - 128) +
                                values[c];
    const std::int64_t sum = std::int64_t{m} * change + (1 << 20);
    place = static_cast<std::uint8_t>(std::clamp<std::int64_t>(place + (sum >> 21), 0, 255));
  }
}

// 4 times the sum of a pixel's channels less those of its neighbours.
std::int64_t finest(const std::uint8_t* square, std::size_t side, std::size_t pixel) {
  const auto grey = [&](std::size_t i) {
    const std::uint8_t* channels = square + kChannels * i;
    return std::int64_t{channels[0]} + channels[1] + channels[2];
  };
  return 4 * grey(pixel) - grey(pixel - 1) - grey(pixel + 1) - grey(pixel - side) -
         grey(pixel + side);
}

}  // namespace

Ellipse::Ellipse(std::int64_t side)
    : centre_{32 * side * 256 / 512, 32 * side * 272 / 512},
      across_(32 * side * 216 / 512),
      down_(32 * side * 236 / 512),
      per_across_((std::int64_t{1} << 44U) / (across_ * across_)),
      per_down_((std::int64_t{1} << 44U) / (down_ * down_)) {}

std::int32_t Ellipse::mask(const Point& position) const {
  const std::int64_t u = position.x - centre_.x;
  const std::int64_t v = position.y - centre_.y;
  const std::int64_t e = (u * u * per_across_ + v * v * per_down_) >> 32;
  return ramp()[static_cast<std::size_t>(std::min(e, kUnit))];
}

Ellipse::Bounds Ellipse::bounds(const Similarity& to, std::size_t width, std::size_t height) const {
  const Wide a = to.a;
  const Wide b = to.b;
  const Wide x = to.x + ((a * centre_.x - b * centre_.y) >> 5);
  const Wide y = to.y + ((b * centre_.x + a * centre_.y) >> 5);
  const auto reach = [](Wide one, Wide other) {
    return square_root(one * one + other * other) >> 5;
  };
  const Wide across = reach(a * across_, b * down_);
  const Wide down = reach(b * across_, a * down_);
  const auto pixel = [](Wide value) { return static_cast<std::int64_t>(value >> 20); };
  const std::int64_t zero = 0;
  return {std::max(zero, pixel(x - across)), std::max(zero, pixel(y - down)),
          std::min(static_cast<std::int64_t>(width), pixel(x + across) + 2),
          std::min(static_cast<std::int64_t>(height), pixel(y + down) + 2)};
}

Comparison::Comparison(std::int64_t side)
    : side_(static_cast<std::size_t>(side)), ellipse_(side), squares_{} {
  mask_.reserve(side_ * side_);
  for (std::int64_t v = 0; v < side; ++v) {
    std::array<std::int64_t, 3> row{};
    for (std::int64_t u = 0; u < side; ++u) {
      mask_.push_back(static_cast<std::int16_t>(ellipse_.mask({32 * u, 32 * v})));
      const std::int64_t w = weight(mask_.size() - 1);
      const std::int64_t x = u - ellipse_.centre().x / 32;
      const std::int64_t y = v - ellipse_.centre().y / 32;
      row = {row[0] + w, row[1] + w * x * x, row[2] + w * y * y};
    }
    for (std::size_t i = 0; i < row.size(); ++i) squares_[i] += row[i];
  }
}

// Where the mask fades out.
std::int64_t Comparison::weight(std::size_t pixel) const {
  const std::int64_t m = mask_[pixel];
  return m * (kFull - m) >> 8;
}

// Subtracts the plane that fits best where the mask fades out.
void Comparison::take_off_plane(Change& change, std::size_t channel) const {
  const std::int64_t left = ellipse_.centre().x / 32;
  const std::int64_t top = ellipse_.centre().y / 32;
  std::array<Wide, 3> sums{};
  for (std::size_t v = 0, pixel = 0; v < side_; ++v) {
    std::array<std::int64_t, 3> row{};
    const std::int64_t y = static_cast<std::int64_t>(v) - top;
    for (std::size_t u = 0; u < side_; ++u, ++pixel) {
      const std::int64_t value = weight(pixel) * change.values[kChannels * pixel + channel];
      const std::int64_t x = static_cast<std::int64_t>(u) - left;
      row = {row[0] + value, row[1] + value * x, row[2] + value * y};
    }
    for (std::size_t i = 0; i < row.size(); ++i) sums[i] += row[i];
  }
  std::array<std::int64_t, 3> plane{};
  for (std::size_t i = 0; i < plane.size(); ++i) {
    plane[i] = static_cast<std::int64_t>(
        floor_divide((Wide{1} << 13) * sums[i] + squares_[i], 2 * squares_[i]));
  }
  for (std::size_t v = 0, pixel = 0; v < side_; ++v) {
    const std::int64_t y = static_cast<std::int64_t>(v) - top;
    for (std::size_t u = 0; u < side_; ++u, ++pixel) {
      const std::int64_t x = static_cast<std::int64_t>(u) - left;
      const std::int64_t height = (plane[0] + plane[1] * x + plane[2] * y + (1 << 11)) >> 12;
      std::int16_t& value = change.values[kChannels * pixel + channel];
      value = limited(value - height);
    }
  }
}

std::int32_t Comparison::detail_kept(const std::uint8_t* square,
                                     const std::uint8_t* restored) const {
  Wide whole = 0;
  Wide kept = 0;
  for (std::size_t v = 1; v + 1 < side_; ++v) {
    std::int64_t whole_row = 0;
    std::int64_t kept_row = 0;
    for (std::size_t u = 1; u + 1 < side_; ++u) {
      const std::size_t pixel = v * side_ + u;
      const std::int64_t w = mask_[pixel] >> 4;
      if (w == 0) continue;
      const std::int64_t before = finest(square, side_, pixel);
      whole_row += w * before * before;
      kept_row += w * before * finest(restored, side_, pixel);
    }
    whole += whole_row;
    kept += kept_row;
  }
  if (whole == 0) return kAllDetail;
  const Wide share = floor_divide(kept * 512 + whole, 2 * whole);
  return static_cast<std::int32_t>(std::clamp<Wide>(share, 0, kAllDetail));
}

Comparison::Result Comparison::compare(const std::uint8_t* square, const std::uint8_t* restored,
                                       const Similarity& similarity) const {
  Result result{{side_, {}}, kAllDetail};
  std::vector<std::int16_t>& values = result.change.values;
  values.resize(kChannels * side_ * side_);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::int16_t>(restored[i] - square[i]);
  }
  for (std::size_t c = 0; c < kChannels; ++c) take_off_plane(result.change, c);
  if (similarity.squared() > Wide{1} << 40) result.detail = detail_kept(square, restored);
  const std::int32_t lost = kAllDetail - result.detail;
  for (std::size_t i = 0; lost > 0 && i < values.size(); ++i) {
    values[i] = limited(values[i] + ((lost * (square[i] - 128) + 128) >> 8));
  }
  return result;
}

void paste(const EnlargedPicture& enlarged, const Similarity& similarity, const Ellipse& ellipse,
           const Comparison::Result& result, Pixels output, bool bgr, Scratch& scratch) {
  const Ellipse::Bounds bounds = ellipse.bounds(similarity, output.width, output.height);
  if (bounds.empty()) return;
  const Similarity inverse = similarity.inverse();
  const std::int64_t factor = inverse.reduction();
  const Change source =
      reduce_change(result.change, static_cast<std::size_t>(factor), std::size_t{kMargin});
  const Similarity into = inverse.into_reduced(-kMargin * factor, -kMargin * factor, factor);
  const std::int64_t last = 32 * (static_cast<std::int64_t>(source.side) - 3);
  const auto left = static_cast<std::size_t>(bounds.left);
  const auto width = static_cast<std::size_t>(bounds.right) - left;
  const std::size_t band = std::max<std::size_t>(1, kBandPixels / width);
  std::vector<std::uint8_t> picture;
  for (auto top = static_cast<std::size_t>(bounds.top);
       top < static_cast<std::size_t>(bounds.bottom); top += band) {
    const std::size_t rows = std::min(band, static_cast<std::size_t>(bounds.bottom) - top);
    picture.resize(kChannels * width * rows);
    enlarged.block(left, top, packed(picture.data(), width, rows), scratch);
    const std::uint8_t* pixel = picture.data();
    for (std::size_t y = top; y < top + rows; ++y) {
      for (std::size_t x = left; x < left + width; ++x, pixel += kChannels) {
        const auto column = static_cast<std::int64_t>(x);
        const auto row = static_cast<std::int64_t>(y);
        const std::int32_t m = ellipse.mask(inverse.position(column, row));
        if (m == 0) continue;
        const Point at = into.position(column, row);
        const auto values =
            interpolate(source.values.data(), source.side, std::clamp<std::int64_t>(at.x, 32, last),
                        std::clamp<std::int64_t>(at.y, 32, last));
        add(output.at(x, y), pixel, values, m, result.detail, bgr);
      }
    }
  }
}

}  // namespace elir::core
