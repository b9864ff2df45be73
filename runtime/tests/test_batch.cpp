// elir_restore_batch: pixels, errors and threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "each_mode.hpp"

namespace elir {
namespace {

using Pixels = std::vector<std::uint8_t>;

// Pictures of different sizes, and their outputs.
struct Pictures {
  explicit Pictures(std::size_t count, std::size_t scale = 1) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t width = scale * (20 + 9 * i % 70);
      const std::size_t height = scale * (32 + 5 * (i % 4));
      sources.push_back(test::pattern(width, height, i));
      results.emplace_back(sources.back().size(), 77);
      inputs.push_back(
          test::image_of(sources.back(), static_cast<int>(width), static_cast<int>(height)));
      outputs.push_back(
          test::image_of(results.back(), static_cast<int>(width), static_cast<int>(height)));
    }
  }
  std::vector<Pixels> sources;
  std::vector<Pixels> results;
  std::vector<elir_image> inputs;
  std::vector<elir_image> outputs;
};

using BatchTest = test::EachMode;

TEST_P(BatchTest, SamePixelsAsRestore) {
  Restorer restorer = opened();
  Pictures pictures(20);
  restorer.restore_batch(pictures.inputs, pictures.outputs);
  const std::vector<Pixels> batch = pictures.results;
  for (std::size_t i = 0; i < pictures.inputs.size(); ++i) {
    restorer.restore(pictures.inputs[i], pictures.outputs[i]);
  }
  EXPECT_EQ(batch, pictures.results);
}

TEST_P(BatchTest, Empty) {
  Restorer restorer = opened();
  EXPECT_EQ(elir_restore_batch(restorer.get(), nullptr, nullptr, 0), ELIR_OK);
  EXPECT_EQ(elir_restore_batch(restorer.get(), nullptr, nullptr, 1), ELIR_ERROR_USAGE);
}

TEST_P(BatchTest, AnInvalidImageLeavesOutputsUnchanged) {
  Restorer restorer = opened();
  Pictures pictures(5);
  const std::vector<Pixels> before = pictures.results;
  pictures.outputs[3].width = 1;
  EXPECT_EQ(elir_restore_batch(restorer.get(), pictures.inputs.data(), pictures.outputs.data(), 5),
            ELIR_ERROR_IMAGE);
  EXPECT_EQ(std::string(elir_last_error()).find("image 3: the output is 1x"), 0U);
  EXPECT_EQ(pictures.results, before);
}

std::ptrdiff_t threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST_P(BatchTest, AsManyThreadsAsSessions) {
  Restorer restorer = opened();
  Pictures pictures(8, 20);
  std::atomic<bool> done = false;
  std::ptrdiff_t most = 0;
  std::thread watcher([&] {
    while (!done) most = std::max(most, threads());
  });
  const std::ptrdiff_t before = threads();  // including the watcher and a sanitizer's
  restorer.restore_batch(pictures.inputs, pictures.outputs);
  done = true;
  watcher.join();
  EXPECT_EQ(most - before, restorer.describe().concurrency - 1) << "besides the caller's";
}

INSTANTIATE_TEST_SUITE_P(Modes, BatchTest, test::kModes, test::mode_name);

}  // namespace
}  // namespace elir
