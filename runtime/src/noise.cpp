#include "noise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "text.hpp"

namespace elir::core {
namespace {

constexpr std::size_t kPartsPerBlock = 16;
constexpr std::size_t kHalf = 32768;

using Words = std::array<std::uint64_t, 4>;

// The upper 64 bits of a product.
std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
  const auto low = [](std::uint64_t value) { return value & UINT32_MAX; };
  const auto high = [](std::uint64_t value) { return value >> 32U; };
  const std::uint64_t middle = high(a) * low(b) + high(low(a) * low(b));
  const std::uint64_t other = low(a) * high(b) + low(middle);
  return high(a) * high(b) + high(middle) + high(other);
}

// Philox4x64-10 (Salmon et al., 2011) with the key (key, 0).
Words philox(Words counter, std::uint64_t key) {
  std::uint64_t second = 0;
  for (int round = 0; round < 10; ++round) {
    constexpr std::uint64_t kFactors[] = {0xD2E7470EE14C6C93, 0xCA5A826395121157};
    const auto [a, b, c, d] = counter;
    counter = {multiply_high(kFactors[1], c) ^ b ^ key, kFactors[1] * c,
               multiply_high(kFactors[0], a) ^ d ^ second, kFactors[0] * a};
    key += 0x9E3779B97F4A7C15;
    second += 0xBB67AE8584CAA73B;
  }
  return counter;
}

std::vector<float> compute_quantiles() {
  std::vector<float> all(2 * kHalf);
  double x = 0;
  for (std::size_t k = 0; k < kHalf; ++k) {
    // Newton's method for the upper tail, which is convex: from the left, it never overshoots.
    const double tail = (static_cast<double>(kHalf - k) - 0.5) / (2 * kHalf);
    double step = 0;
    do {
      constexpr double kPi = 3.14159265358979323846;
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * kPi);
      step = (std::erfc(x / std::sqrt(2.0)) / 2 - tail) / density;
      x += step;
    } while (step > 1e-12);
    all[kHalf + k] = static_cast<float>(std::lround(4096 * x));
    all[kHalf - 1 - k] = -all[kHalf + k];
  }
  return all;
}

}  // namespace

std::optional<std::string> why_not_noise(std::int64_t seed, double sigma_s) {
  if (seed < 0 || seed > UINT32_MAX) {
    return text("the seed of the noise is ", seed, ", expected 0 to ", UINT32_MAX);
  }
  if (sigma_s >= 0 && sigma_s <= std::numeric_limits<float>::max()) return std::nullopt;
  return text("sigma_s is ", sigma_s, ", expected a number >= 0 that fits float32");
}

const std::vector<float>& normal_quantiles() {
  static const std::vector<float> all = compute_quantiles();
  return all;
}

void NoiseField::fill(float* values, std::size_t channels, std::size_t height, std::size_t width,
                      std::size_t left, std::size_t top) const {
  const std::vector<float>& quantiles = normal_quantiles();
  const std::size_t area = height * width;
  for (std::size_t first = 0; first < channels; first += kPartsPerBlock) {
    const std::size_t count = std::min(kPartsPerBlock, channels - first);
    for (std::size_t at = 0; at < area; ++at) {
      const Words words =
          philox({left + at % width, top + at / width, first / kPartsPerBlock, 0}, seed_);
      for (std::size_t i = 0; i < count; ++i) {
        const auto part = static_cast<std::uint16_t>(words[i / 4] >> 16U * (i % 4));
        values[(first + i) * area + at] = quantiles[part] * scale_;
      }
    }
  }
}

}  // namespace elir::core
