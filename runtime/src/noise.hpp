// The noise of a picture: elir_deploy/runtime/noise.py, which has the definition, with the same
// bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace elir::core {

// Name of this function in the manifest.
inline constexpr std::string_view kFieldGenerator = "philox4x64-10, 16-bit normal quantiles";

// Why there is no noise with these values; none: there is.
std::optional<std::string> why_not_noise(std::int64_t seed, double sigma_s);

// The normal quantiles of (k + 1/2) / 65536 in units of 1/4096, rounded to integers.
const std::vector<float>& normal_quantiles();

class NoiseField {
 public:
  // Requires values that why_not_noise() does not object to.
  NoiseField(std::int64_t seed, double sigma_s)
      : seed_(static_cast<std::uint64_t>(seed)), scale_(static_cast<float>(sigma_s) / 4096) {}

  // Fills `values`, channels x height x width, from column `left` and row `top` of the picture's
  // latent on.
  void fill(float* values, std::size_t channels, std::size_t height, std::size_t width,
            std::size_t left, std::size_t top) const;

 private:
  std::uint64_t seed_;
  float scale_;
};

}  // namespace elir::core
