// A steady state does not allocate, on a backend that does not either. Errors when out of memory.
#include <gtest/gtest.h>

#include <elir/elir.hpp>
#include <utility>

#include "counted_new.hpp"
#include "support.hpp"

namespace elir {
namespace {

struct Case {
  const char* name;
  test::BundleOptions bundle;
  elir_fit fit;
  int width;
  int height;
};

const char* const kShapes =
    R"([{"batch": 4, "height": 32, "width": 32},
        {"batch": 2, "height": 40, "width": 60, "padded_height": 48, "padded_width": 64}])";

test::BundleOptions of_shapes() {
  test::BundleOptions options;
  options.shapes = kShapes;
  options.noise_stride = 8;
  return options;
}

class AllocationsTest : public ::testing::TestWithParam<Case> {};

TEST_P(AllocationsTest, NoneAfterTheFirstImage) {
  const Case& test_case = GetParam();
  const test::Folder folder;
  test::write_bundle(folder.path() / "b", test_case.bundle);
  elir_params params = test::reference_params();
  params.fit = test_case.fit;
  Restorer restorer((folder.path() / "b").string(), params);
  const int factor = test_case.bundle.upscale;
  auto pixels = test::pattern(static_cast<std::size_t>(test_case.width),
                              static_cast<std::size_t>(test_case.height), 0);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(factor * factor));
  const elir_image input = test::image_of(pixels, test_case.width, test_case.height);
  elir_image output = test::image_of(result, test_case.width * factor, test_case.height * factor);
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
        Case{"NetworksSize", {}, ELIR_FIT_DEFAULT, 32, 32},
        Case{"Split", {32, true}, ELIR_FIT_DEFAULT, 32, 32},
        Case{"Float", {32, false, true}, ELIR_FIT_DEFAULT, 32, 32},
        Case{"Tiles", {}, ELIR_FIT_TILE, 100, 70},
        Case{"TilesInBatches", of_shapes(), ELIR_FIT_TILE, 211, 170},
        Case{"Padded", of_shapes(), ELIR_FIT_TILE, 50, 33},
        Case{"ResizedAndPadded", of_shapes(), ELIR_FIT_RESIZE, 60, 40},
        Case{"SmallerThanATile", {}, ELIR_FIT_TILE, 20, 10},
        Case{"Resized", {}, ELIR_FIT_RESIZE, 100, 70},
        Case{"EnlargedTiles", {32, false, false, false, 4, "bicubic"}, ELIR_FIT_TILE, 30, 20},
        Case{
            "EnlargedAndResized", {32, false, false, false, 4, "bicubic"}, ELIR_FIT_RESIZE, 30, 20},
        Case{"NearestTiles", {32, false, false, false, 8, "nearest"}, ELIR_FIT_TILE, 30, 20}),
    [](const auto& test_case) { return test_case.param.name; });

// Working memory cannot grow for one image of a batch; it suffices for the others.
TEST(Batch, RestoresTheOthersWhenOneFails) {
  const test::Folder folder;
  test::write_bundle(folder.path() / "b");
  Restorer restorer((folder.path() / "b").string(), test::reference_params());
  std::vector<std::vector<std::uint8_t>> sources;
  std::vector<std::vector<std::uint8_t>> results;
  std::vector<elir_image> inputs;
  std::vector<elir_image> outputs;
  for (const int width : {32, 200, 32}) {
    sources.push_back(test::pattern(static_cast<std::size_t>(width), 32, 0));
    results.emplace_back(sources.back().size());
    inputs.push_back(test::image_of(sources.back(), width, 32));
    outputs.push_back(test::image_of(results.back(), width, 32));
  }
  restorer.restore(inputs[0], outputs[0]);
  const std::vector<std::uint8_t> expected = std::exchange(results[0], {});
  results[0].resize(expected.size());
  outputs[0].data = results[0].data();
  test::fail_after(1);  // after the list of failures
  const elir_status status =
      elir_restore_batch(restorer.get(), inputs.data(), outputs.data(), inputs.size());
  EXPECT_EQ(status, ELIR_ERROR_MEMORY);
  EXPECT_STREQ(elir_last_error(), "image 1: out of memory");
  EXPECT_EQ(results[0], expected);
  EXPECT_EQ(results[2], expected);
}

// Without memory for threads, the calling thread does all the work.
TEST(Batch, WithoutThreads) {
  const test::Folder folder;
  test::write_bundle(folder.path() / "b");
  elir_params params = test::reference_params();
  params.mode = ELIR_MODE_THROUGHPUT;
  Restorer restorer((folder.path() / "b").string(), params);
  auto pixels = test::pattern(32, 32, 0);
  std::vector<std::uint8_t> first(pixels.size());
  std::vector<std::uint8_t> second(pixels.size());
  const elir_image image = test::image_of(pixels, 32, 32);
  test::fail_after(1);  // after the list of failures
  const elir_image inputs[] = {image, image};
  const elir_image outputs[] = {test::image_of(first, 32, 32), test::image_of(second, 32, 32)};
  EXPECT_EQ(elir_restore_batch(restorer.get(), inputs, outputs, 2), ELIR_OK);
  EXPECT_EQ(first, second);
}

class OutOfMemory : public ::testing::TestWithParam<std::pair<const char*, long>> {};

// A failure of any allocation gives ELIR_ERROR_MEMORY and leaks nothing.
TEST_P(OutOfMemory, WhileCreating) {
  const auto& [backend, places] = GetParam();
  if (std::string(elir_backends()).find(backend) == std::string::npos) GTEST_SKIP();
  const test::Folder folder;
  test::write_bundle(folder.path() / "b");
  const std::string path = (folder.path() / "b").string();
  elir_params params = elir_default_params();
  params.backend = backend;
  params.cache = "";
  elir_restorer* restorer = nullptr;
  long all = 0;
  for (int i = 0; i < 2; ++i) {  // the first also creates static objects
    const long before = test::allocations();
    ASSERT_EQ(elir_create(path.c_str(), &params, &restorer), ELIR_OK);
    all = test::allocations() - before;
    elir_destroy(restorer);
  }
  ASSERT_GT(all, places);
  for (long i = 0; i < places; ++i) {
    test::fail_after(all * i / places);
    const elir_status status = elir_create(path.c_str(), &params, &restorer);
    test::fail_after(-1);
    // The standard library tolerates some failures.
    EXPECT_TRUE(status == ELIR_ERROR_MEMORY || status == ELIR_OK) << elir_last_error();
    EXPECT_EQ(restorer != nullptr, status == ELIR_OK);
    elir_destroy(restorer);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, OutOfMemory,
                         ::testing::Values(std::pair("reference", 200L),
                                           std::pair("openvino", 20L)),  // ONNX Runtime crashes
                         [](const auto& test_case) { return std::string(test_case.param.first); });

}  // namespace
}  // namespace elir
