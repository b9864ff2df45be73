// Tiles, padding, noise and batches, compared with the Python runtime: tests/golden/make.py.
#include <gtest/gtest.h>

#include <elir/elir.hpp>

#include "golden.hpp"
#include "support.hpp"

namespace elir {
namespace {

// Restores a golden case's picture with the reference backend; returns the digest.
std::string restored(const test::Golden& golden, std::uint64_t seed) {
  const int width = golden["width"];
  const int height = golden["height"];
  const int factor = golden["factor"];
  test::BundleOptions options;
  options.upscale = factor;
  options.kernel = golden["kernel"];
  options.shapes = golden["shapes"].dump();
  options.noise_stride = golden["stride"];
  const test::Folder folder;
  test::write_bundle(folder.path() / "b", options);
  elir_params params = test::reference_params();
  if (!golden["overlap"].is_null()) params.tile_overlap = golden["overlap"];
  if (options.noise_stride > 0) {
    params.sigma_s = test::golden("pictures.json")["sigma_s"];
    params.seed = test::golden("pictures.json")["seed"];
  }
  Restorer restorer((folder.path() / "b").string(), params);
  auto pixels =
      test::pattern(static_cast<std::size_t>(width), static_cast<std::size_t>(height), seed);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(factor * factor));
  restorer.restore(test::image_of(pixels, width, height),
                   test::image_of(result, width * factor, height * factor));
  return test::digest(result);
}

TEST(Tiles, AreThoseOfPython) {
  std::uint64_t seed = 0;
  for (const test::Golden& golden : test::golden("pictures.json")["tiled"]) {
    EXPECT_EQ(restored(golden, seed++), golden["output"]) << golden;
  }
}

}  // namespace
}  // namespace elir
