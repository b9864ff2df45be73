// Eight threads with one restorer, and with one each. Mainly for the build with ThreadSanitizer.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "each_mode.hpp"

namespace elir {
namespace {

constexpr int kThreads = 8;

void in_threads(const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([&work, i] { work(i); });
  for (std::thread& thread : threads) thread.join();
}

// Sizes differ by thread, so that working memory grows and shrinks.
std::string restored(Restorer& restorer, int thread, int round) {
  const int width = 32 + 7 * thread;
  const int height = 20 + 5 * ((thread + round) % kThreads);
  auto pixels = test::pattern(static_cast<std::size_t>(width), static_cast<std::size_t>(height), 1);
  std::vector<std::uint8_t> result(pixels.size());
  restorer.restore(test::image_of(pixels, width, height), test::image_of(result, width, height));
  return test::digest(result);
}

using ThreadsTest = test::EachMode;

TEST_P(ThreadsTest, OneRestorer) {
  Restorer restorer = opened();
  std::vector<std::vector<std::string>> digests(kThreads);
  in_threads([&](int thread) {
    for (int round = 0; round < 10; ++round) {
      digests[static_cast<std::size_t>(thread)].push_back(restored(restorer, thread, round));
    }
  });
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int round = 0; round < 10; ++round) {
      EXPECT_EQ(digests[static_cast<std::size_t>(thread)][static_cast<std::size_t>(round)],
                restored(restorer, thread, round));
    }
  }
}

TEST_P(ThreadsTest, OneRestorerPerThread) {
  in_threads([&](int thread) {
    for (int round = 0; round < 5; ++round) {
      Restorer restorer = opened();
      const std::string first = restored(restorer, thread, 0);
      EXPECT_EQ(restored(restorer, thread, 0), first);
    }
  });
}

TEST_P(ThreadsTest, AllFunctionsAtOnce) {
  Restorer restorer = opened();
  in_threads([&](int thread) {
    auto pixels = test::pattern(40, 40, 0);
    std::vector<std::uint8_t> result(pixels.size());
    for (int round = 0; round < 10; ++round) {
      restorer.restore_async(test::image_of(pixels, 40, 40), test::image_of(result, 40, 40),
                             [](elir_status status, const char*) { EXPECT_EQ(status, ELIR_OK); });
      restored(restorer, thread, round);
      EXPECT_EQ(restorer.describe().shapes[0].width, 32);
      restorer.wait();
    }
  });
}

// The last error is per thread.
TEST_P(ThreadsTest, Errors) {
  in_threads([&](int thread) {
    for (int round = 0; round < 20; ++round) {
      const std::string name = "/none/" + std::to_string(thread);
      elir_restorer* restorer = nullptr;
      EXPECT_EQ(elir_create(name.c_str(), nullptr, &restorer), ELIR_ERROR_BUNDLE);
      EXPECT_EQ(std::string(elir_last_error()).find(name + " is not the folder"), 0U);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, ThreadsTest, test::kModes, test::mode_name);

}  // namespace
}  // namespace elir
