#include <gtest/gtest.h>

#include <atomic>
#include <elir/elir.hpp>
#include <functional>
#include <future>
#include <thread>

#include "support.hpp"

namespace elir {
namespace {

class AsyncTest : public ::testing::Test {
 protected:
  Restorer opened(int queue, elir_mode mode = ELIR_MODE_LATENCY) {
    test::write_bundle(folder_.path() / "b");
    elir_params params = test::reference_params();
    params.queue = queue;
    params.mode = mode;
    return Restorer((folder_.path() / "b").string(), params);
  }
  test::Folder folder_;
};

TEST_F(AsyncTest, SamePixelsAsRestoreInOrder) {
  Restorer restorer = opened(100);
  std::vector<std::vector<std::uint8_t>> inputs;
  std::vector<std::vector<std::uint8_t>> outputs(50, std::vector<std::uint8_t>(50 * 40 * 3));
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < outputs.size(); ++i) inputs.push_back(test::pattern(50, 40, i));
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    ASSERT_TRUE(restorer.restore_async(test::image_of(inputs[i], 50, 40),
                                       test::image_of(outputs[i], 50, 40),
                                       [&order, i](elir_status status, const char* message) {
                                         EXPECT_EQ(status, ELIR_OK);
                                         EXPECT_STREQ(message, "");
                                         order.push_back(i);
                                       }));
  }
  restorer.wait();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(order.at(i), i);
    std::vector<std::uint8_t> expected(outputs[i].size());
    restorer.restore(test::image_of(inputs[i], 50, 40), test::image_of(expected, 50, 40));
    EXPECT_EQ(outputs[i], expected);
  }
}

TEST_F(AsyncTest, FullQueueIsBusy) {
  Restorer restorer = opened(1);
  auto pixels = test::pattern(32, 32, 0);
  std::vector<std::uint8_t> result(pixels.size());
  const elir_image input = test::image_of(pixels, 32, 32);
  const elir_image output = test::image_of(result, 32, 32);
  std::promise<void> begun;
  std::promise<void> go_on;
  ASSERT_TRUE(restorer.restore_async(input, output, [&](elir_status, const char*) {
    begun.set_value();
    go_on.get_future().wait();
  }));
  begun.get_future().wait();  // the one thread is busy now, and the queue empty
  std::atomic<int> done{0};
  const auto count = [&](elir_status, const char*) { ++done; };
  EXPECT_TRUE(restorer.restore_async(input, output, count));
  EXPECT_FALSE(restorer.restore_async(input, output, count));
  go_on.set_value();
  restorer.wait();
  EXPECT_EQ(done, 1);
}

TEST_F(AsyncTest, DestroyWaitsForAcceptedImages) {
  auto pixels = test::pattern(100, 100, 0);
  std::vector<std::uint8_t> result(pixels.size());
  std::atomic<int> done{0};
  {
    Restorer restorer = opened(20);
    for (int i = 0; i < 20; ++i) {
      restorer.restore_async(test::image_of(pixels, 100, 100), test::image_of(result, 100, 100),
                             [&](elir_status, const char*) { ++done; });
    }
  }
  EXPECT_EQ(done, 20);
}

TEST_F(AsyncTest, CallbacksMaySubmitButNotWait) {
  Restorer restorer = opened(2);
  auto pixels = test::pattern(32, 32, 0);
  std::vector<std::uint8_t> result(pixels.size());
  const elir_image input = test::image_of(pixels, 32, 32);
  const elir_image output = test::image_of(result, 32, 32);
  std::promise<elir_status> waited;
  restorer.restore_async(input, output, [&](elir_status, const char*) {
    restorer.restore_async(input, output, [&](elir_status, const char*) {
      waited.set_value(elir_wait(restorer.get()));
    });
  });
  EXPECT_EQ(waited.get_future().get(), ELIR_ERROR_USAGE);
}

// As in a camera's loop: otherwise elir_destroy would never return.
TEST_F(AsyncTest, DestroyEndsCallbacksThatAlwaysSubmit) {
  for (const elir_mode mode : {ELIR_MODE_LATENCY, ELIR_MODE_THROUGHPUT}) {
    auto pixels = test::pattern(32, 32, 0);
    const elir_image input = test::image_of(pixels, 32, 32);
    std::vector<std::vector<std::uint8_t>> results(3, pixels);
    std::vector<std::function<void(elir_status, const char*)>> again(results.size());
    std::atomic<int> accepted{0};
    std::atomic<int> done{0};
    Restorer* target = nullptr;
    const auto submit = [&](std::size_t i) {
      const elir_image output = test::image_of(results[i], 32, 32);
      if (target->restore_async(input, output, again[i])) ++accepted;
    };
    {  // the callbacks' variables outlive the restorer
      Restorer restorer = opened(4, mode);
      target = &restorer;
      for (std::size_t i = 0; i < again.size(); ++i) {
        again[i] = [&, i](elir_status status, const char*) {
          EXPECT_EQ(status, ELIR_OK);
          ++done;
          submit(i);
        };
        submit(i);
      }
      while (done < 10) std::this_thread::yield();
    }
    EXPECT_EQ(done, accepted);
  }
}

TEST_F(AsyncTest, InvalidArgumentsFailAtOnce) {
  Restorer restorer = opened(2);
  auto pixels = test::pattern(32, 32, 0);
  const elir_image image = test::image_of(pixels, 32, 32);
  const elir_image other = test::image_of(pixels, 31, 32);
  EXPECT_EQ(elir_restore_async(restorer.get(), &image, &image, nullptr, nullptr), ELIR_ERROR_USAGE);
  EXPECT_THROW(restorer.restore_async(image, other, [](elir_status, const char*) { FAIL(); }),
               Error);
  EXPECT_EQ(elir_wait(restorer.get()), ELIR_OK);
}

TEST_F(AsyncTest, ConcurrentImages) {
  Restorer restorer = opened(64, ELIR_MODE_THROUGHPUT);
  EXPECT_EQ(restorer.describe().concurrency, 3);
  auto pixels = test::pattern(60, 60, 0);
  std::vector<std::vector<std::uint8_t>> outputs(40, std::vector<std::uint8_t>(pixels.size()));
  std::atomic<int> done{0};
  for (auto& output : outputs) {
    ASSERT_TRUE(restorer.restore_async(test::image_of(pixels, 60, 60),
                                       test::image_of(output, 60, 60),
                                       [&](elir_status, const char*) { ++done; }));
  }
  restorer.wait();
  EXPECT_EQ(done, 40);
  for (const auto& output : outputs) EXPECT_EQ(output, outputs.front());
}

}  // namespace
}  // namespace elir
