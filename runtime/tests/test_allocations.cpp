// A steady state allocates nothing. The backend under test allocates nothing itself.
#include <gtest/gtest.h>

#include <elir/elir.hpp>

#include "counted_new.hpp"
#include "support.hpp"

namespace elir {
namespace {

struct Steady {
  const char* name;
  test::BundleOptions bundle;
  elir_fit fit;
  int width;
  int height;
};

class AllocationsTest : public ::testing::TestWithParam<Steady> {};

TEST_P(AllocationsTest, NoneAfterTheFirstImage) {
  const Steady& given = GetParam();
  const test::Folder folder;
  test::write_bundle(folder.path() / "b", given.bundle);
  elir_params params = test::reference_params();
  params.fit = given.fit;
  Restorer restorer((folder.path() / "b").string(), params);
  const int factor = given.bundle.upscale;
  auto pixels = test::pattern(static_cast<std::size_t>(given.width),
                              static_cast<std::size_t>(given.height), 0);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(factor * factor));
  const elir_image input = test::image_of(pixels, given.width, given.height);
  elir_image output = test::image_of(result, given.width * factor, given.height * factor);
  output.format = ELIR_BGR8;
  const auto ignore = [](void*, elir_status, const char*) {};
  const auto restore_once = [&] {
    check(elir_restore(restorer.get(), &input, &output));
    check(elir_restore_async(restorer.get(), &input, &output, ignore, nullptr));
    check(elir_wait(restorer.get()));
  };
  restore_once();
  const long before = test::allocations();
  for (int i = 0; i < 20; ++i) restore_once();
  EXPECT_EQ(test::allocations() - before, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Images, AllocationsTest,
    ::testing::Values(
        Steady{"OwnSize", {}, ELIR_FIT_DEFAULT, 32, 32},
        Steady{"Split", {32, true}, ELIR_FIT_DEFAULT, 32, 32},
        Steady{"Float", {32, false, true}, ELIR_FIT_DEFAULT, 32, 32},
        Steady{"Tiles", {}, ELIR_FIT_TILE, 100, 70},
        Steady{"SmallerThanATile", {}, ELIR_FIT_TILE, 20, 10},
        Steady{"Resized", {}, ELIR_FIT_RESIZE, 100, 70},
        Steady{"EnlargedTiles", {32, false, false, false, 4, "bicubic"}, ELIR_FIT_TILE, 30, 20},
        Steady{
            "EnlargedAndResized", {32, false, false, false, 4, "bicubic"}, ELIR_FIT_RESIZE, 30, 20},
        Steady{"NearestTiles", {32, false, false, false, 8, "nearest"}, ELIR_FIT_TILE, 30, 20}),
    [](const auto& given) { return given.param.name; });

}  // namespace
}  // namespace elir
