#include "resampling.hpp"

#include <algorithm>
#include <cmath>

namespace elir::core {
namespace {

constexpr int kFractionBits = 22;
constexpr std::int32_t kHalf = std::int32_t{1} << (kFractionBits - 1);
constexpr double kSupport = 2;

// The order of operations is Pillow's, for the same weights to the last bit. The build disables
// fused multiply-add.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

}  // namespace

void Weights::compute(std::size_t from, std::size_t to, std::size_t first, std::size_t count) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);
  const double support = kSupport * stretch;
  const double inverse = 1 / stretch;
  reach_ = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  begins_.resize(count);
  counts_.resize(count);
  weights_.resize(count * reach_);
  exact_.resize(reach_);
  for (std::size_t i = 0; i < count; ++i) {
    const double center = (static_cast<double>(first + i) + 0.5) * scale;
    const auto begin = static_cast<std::size_t>(std::max(0.0, center - support + 0.5));
    const auto end = std::min(from, static_cast<std::size_t>(center + support + 0.5));
    double total = 0;
    for (std::size_t tap = 0; tap < end - begin; ++tap) {
      const double distance = static_cast<double>(tap + begin) - center + 0.5;
      exact_[tap] = cubic(distance * inverse);
      total += exact_[tap];
    }
    for (std::size_t tap = 0; tap < end - begin; ++tap) {
      const double share = total == 0 ? exact_[tap] : exact_[tap] / total;
      const double fixed = share * (1 << kFractionBits);
      weights_[i * reach_ + tap] = static_cast<std::int32_t>(share < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    begins_[i] = begin;
    counts_[i] = end - begin;
  }
}

void resample_rows(ConstPixels from, Pixels to, const Weights& weights, std::size_t offset) {
  for (std::size_t y = 0; y < from.height; ++y) {
    std::uint8_t* sink = to.row(y);
    for (std::size_t x = 0; x < weights.size(); ++x, sink += kChannels) {
      const Weights::Taps taps = weights[x];
      const std::uint8_t* source = from.at(taps.begin - offset, y);
      std::int32_t sums[kChannels] = {kHalf, kHalf, kHalf};
      for (std::size_t tap = 0; tap < taps.count; ++tap, source += kChannels) {
        for (std::size_t c = 0; c < kChannels; ++c) sums[c] += source[c] * taps.weights[tap];
      }
      for (std::size_t c = 0; c < kChannels; ++c) sink[c] = rounded(sums[c]);
    }
  }
}

void resample_columns(ConstPixels from, Pixels to, const Weights& weights,
                      std::vector<std::int32_t>& sums, std::size_t offset) {
  const std::size_t across = kChannels * from.width;
  for (std::size_t y = 0; y < weights.size(); ++y) {
    const Weights::Taps taps = weights[y];
    sums.assign(across, kHalf);
    for (std::size_t tap = 0; tap < taps.count; ++tap) {
      const std::uint8_t* source = from.row(taps.begin - offset + tap);
      const std::int32_t weight = taps.weights[tap];
      for (std::size_t x = 0; x < across; ++x) sums[x] += source[x] * weight;
    }
    std::uint8_t* sink = to.row(y);
    for (std::size_t x = 0; x < across; ++x) sink[x] = rounded(sums[x]);
  }
}

}  // namespace elir::core
