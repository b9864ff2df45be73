// A detector like CenterFace for tests, which also the stand-in for TensorRT computes: a white
// block of 4 x 4 pixels, at multiples of 4, is an upright face, whose landmarks are those of a
// square of 128 pixels centred at the block.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace elir::test {

struct ReferenceOutput {
  const char* name;
  std::int64_t channels;
};
inline constexpr std::array<ReferenceOutput, 4> kReferenceOutputs = {
    {{"537", 1}, {"538", 2}, {"539", 2}, {"540", 10}}};

// The outputs, each of `channels` x `height` / 4 x `width` / 4 values, for landmarks in a square of
// 512 pixels.
inline std::array<std::vector<float>, 4> reference_outputs(
    const float* picture, std::int64_t height, std::int64_t width,
    const std::array<std::array<double, 2>, 5>& landmarks) {
  const std::int64_t rows = height / 4;
  const std::int64_t columns = width / 4;
  const auto cells = static_cast<std::size_t>(rows * columns);
  std::array<std::vector<float>, 4> values;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i].assign(static_cast<std::size_t>(kReferenceOutputs[i].channels) * cells, 0);
  }
  for (std::int64_t i = 0; i < 3 * height * width; ++i) {
    const std::int64_t cell = i / width % height / 4 * columns + i % width / 4;
    if (cell < rows * columns) values[0][static_cast<std::size_t>(cell)] += picture[i];
  }
  for (float& heat : values[0]) heat /= 48 * 255;
  constexpr double kBox = 70;
  std::fill(values[1].begin(), values[1].end(), static_cast<float>(std::log(kBox / 4)));
  for (std::size_t i = 0; i < values[3].size(); ++i) {
    const std::size_t channel = i / cells;
    values[3][i] = static_cast<float>((landmarks[channel / 2][1 - channel % 2] - 116) / 280);
  }
  return values;
}

}  // namespace elir::test
