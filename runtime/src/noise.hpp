// The noise of a picture: elir_deploy/runtime/noise.py, which has the definition, with the same
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace elir::core {

// Name of this function in the manifest.
inline constexpr std::string_view kFieldGenerator = "philox4x64-10, 16-bit normal quantiles";
inline constexpr std::int64_t kMaxSeed = UINT32_MAX;

// The normal quantiles of (k + 1/2) / 65536 in units of 1/4096, rounded to integers.
const std::vector<float>& normal_quantiles();

class NoiseField {
 public:
  // `seed` is at most kMaxSeed.
  NoiseField(std::uint64_t seed, float sigma_s) : seed_(seed), scale_(sigma_s / 4096) {}

  // Fills `values`, channels x height x width, from column `left` and row `top` of the picture's
  // latent on.
  void fill(float* values, std::size_t channels, std::size_t height, std::size_t width,
            std::size_t left, std::size_t top) const;

 private:
  std::uint64_t seed_;
  float scale_;
};

}  // namespace elir::core
