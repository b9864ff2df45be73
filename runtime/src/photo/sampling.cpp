#include "sampling.hpp"

#include <algorithm>

namespace elir::core {
namespace {

// The pixels along an axis of `length` that `count` ones from `start` on are.
std::vector<std::size_t> mirrored_indices(std::int64_t start, std::int64_t count,
                                          std::int64_t length) {
  std::vector<std::size_t> indices(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t period = 2 * length;
    const std::int64_t m = ((start + i) % period + period) % period;
    indices[static_cast<std::size_t>(i)] = static_cast<std::size_t>(std::min(m, period - 1 - m));
  }
  return indices;
}

std::array<Taps, 1024> compute_taps() {
  // Weights along an axis by tap and phase, in units of 2^-16.
  std::array<std::array<std::int64_t, 32>, 4> axis{};
  for (std::int64_t f = 0; f < 32; ++f) {
    const auto phase = static_cast<std::size_t>(f);
    axis[0][phase] = -f * f * f + 64 * f * f - 1024 * f;
    axis[1][phase] = 3 * f * f * f - 160 * f * f + 65536;
    axis[2][phase] = -3 * f * f * f + 128 * f * f + 1024 * f;
    axis[3][phase] = f * f * f - 32 * f * f;
  }
  std::array<Taps, 1024> all{};
  for (std::size_t phase = 0; phase < all.size(); ++phase) {
    Taps& taps = all[phase];
    std::int32_t total = 0;
    for (std::size_t tap = 0; tap < taps.size(); ++tap) {
      const std::int64_t both = axis[tap / 4][phase / 32] * axis[tap % 4][phase % 32];
      taps[tap] = static_cast<std::int32_t>((both + (1 << 20)) >> (32 - kWeightBits));
      total += taps[tap];
    }
    *std::max_element(taps.begin(), taps.end()) += (1 << kWeightBits) - total;
  }
  return all;
}

}  // namespace

const std::array<Taps, 1024>& interpolation_taps() {
  static const std::array<Taps, 1024> taps = compute_taps();
  return taps;
}

void reduce_region(const Photograph& picture, std::int64_t left, std::int64_t top,
                   std::int64_t factor, Pixels region) {
  const ConstPixels& pixels = picture.pixels;
  const auto k = static_cast<std::size_t>(factor);
  const auto columns = mirrored_indices(left, factor * static_cast<std::int64_t>(region.width),
                                        static_cast<std::int64_t>(pixels.width));
  const auto rows = mirrored_indices(top, factor * static_cast<std::int64_t>(region.height),
                                     static_cast<std::int64_t>(pixels.height));
  const std::uint64_t area = std::uint64_t{k} * k;
  std::vector<std::uint64_t> sums(kChannels * region.width);
  for (std::size_t y = 0; y < region.height; ++y) {
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t down = 0; down < k; ++down) {
      const std::uint8_t* row = pixels.row(rows[y * k + down]);
      const std::size_t* column = columns.data();
      for (std::uint64_t* sum = sums.data(); sum != sums.data() + sums.size(); sum += kChannels) {
        for (std::size_t across = 0; across < k; ++across, ++column) {
          const std::uint8_t* pixel = row + kChannels * *column;
          for (std::size_t c = 0; c < kChannels; ++c) sum[c] += pixel[c];
        }
      }
    }
    std::uint8_t* sink = region.row(y);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sink[i] = static_cast<std::uint8_t>((2 * sums[i] + area) / (2 * area));
    }
  }
  if (picture.bgr) swap_channels(region);
}

Change reduce_change(const Change& change, std::size_t factor, std::size_t margin) {
  const std::size_t inner = (change.side + factor - 1) / factor;
  Change result{inner + 2 * margin, {}};
  result.values.resize(kChannels * result.side * result.side);
  const auto area = static_cast<std::int64_t>(factor * factor);
  std::vector<std::int64_t> sums(kChannels * inner);
  for (std::size_t y = 0; y < inner; ++y) {
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t down = 0; down < factor && y * factor + down < change.side; ++down) {
      const std::int16_t* row = &change.values[kChannels * (y * factor + down) * change.side];
      for (std::size_t x = 0; x < change.side; ++x) {
        for (std::size_t c = 0; c < kChannels; ++c) {
          sums[kChannels * (x / factor) + c] += row[kChannels * x + c];
        }
      }
    }
    std::int16_t* sink = &result.values[kChannels * ((y + margin) * result.side + margin)];
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sink[i] = static_cast<std::int16_t>(floor_divide(2 * sums[i] + area, 2 * area));
    }
  }
  return result;
}

}  // namespace elir::core
