// The noise is the Python runtime's: tests/golden/make.py.
#include <gtest/gtest.h>

#include <cstring>

#include "golden.hpp"
#include "noise.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

template <typename Value>
std::string digest_of(const std::vector<Value>& values) {
  std::vector<std::uint8_t> bytes(sizeof(Value) * values.size());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return test::digest(bytes);
}

TEST(Noise, Quantiles) {
  const std::vector<float>& exact = normal_quantiles();
  const std::vector<std::int16_t> quantiles(exact.begin(), exact.end());
  EXPECT_EQ(digest_of(quantiles), test::golden("noise.json")["quantiles"]);
}

TEST(Noise, Fields) {
  for (const test::Golden& golden : test::golden("noise.json")["fields"]) {
    const std::size_t channels = golden["shape"][0];
    const std::size_t height = golden["shape"][1];
    const std::size_t width = golden["shape"][2];
    std::vector<float> values(channels * height * width);
    NoiseField(golden["seed"], golden["sigma_s"])
        .fill(values.data(), channels, height, width, golden["left"], golden["top"]);
    EXPECT_EQ(digest_of(values), golden["sha256"]) << golden;
  }
}

}  // namespace
}  // namespace elir::core
