// A child process cannot use its parent's restorers, and gets an error at once.
#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <elir/elir.hpp>
#include <mutex>
#include <thread>

#include "support.hpp"

namespace elir {
namespace {

// Calls every function on the parent's restorer. Returns the number of the first with a wrong
// status; 0: none.
int check_in_child(elir_restorer* restorer) {
  std::vector<std::uint8_t> pixels(3 * 32 * 32);
  const elir_image image = test::image_of(pixels, 32, 32);
  elir_description description{};
  description.struct_size = sizeof description;
  std::int32_t side = 0;
  std::size_t count = 0;
  const auto done = [](void*, elir_status, const char*) {};
  const elir_status statuses[] = {
      elir_describe(restorer, &description),
      elir_output_size(restorer, 1, 1, &side, &side),
      elir_restore(restorer, &image, &image),
      elir_restore_batch(restorer, &image, &image, 1),
      elir_restore_async(restorer, &image, &image, done, nullptr),
      elir_wait(restorer),
      elir_detect(restorer, &image, nullptr, 0, &count),
      elir_restore_photo(restorer, nullptr, &image, &image, nullptr, 0, nullptr),
      elir_restore_photo_async(restorer, nullptr, &image, &image, nullptr, 0, nullptr, done,
                               nullptr),
      elir_run(restorer, pixels.data(), pixels.size(), pixels.data(), pixels.size()),
  };
  int number = 0;
  for (const elir_status status : statuses) {
    ++number;
    if (status != ELIR_ERROR_USAGE) return number;
  }
  const std::string parent = "this restorer belongs to process " + std::to_string(getppid());
  const std::string child = " and cannot be used in its child " + std::to_string(getpid());
  if (std::string(elir_last_error()).find(parent + child) != 0) return 20;
  elir_destroy(restorer);
  return elir_restore(restorer, &image, &image) == ELIR_ERROR_USAGE ? 0 : 21;  // not destroyed
}

class ForkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::write_bundle(folder_.path() / "b");
    const elir_params params = test::reference_params();
    ASSERT_EQ(elir_create(bundle_.c_str(), &params, &restorer_), ELIR_OK);
  }
  void TearDown() override { elir_destroy(restorer_); }

  test::Folder folder_;
  const std::string bundle_ = (folder_.path() / "b").string();
  elir_restorer* restorer_ = nullptr;
  std::vector<std::uint8_t> pixels_ = test::pattern(32, 32, 1);
  std::vector<std::uint8_t> result_ = pixels_;
};

TEST_F(ForkTest, IdleRestorer) {
  EXPECT_EQ(test::in_child([&] { return check_in_child(restorer_); }), 0);
  const elir_image input = test::image_of(pixels_, 32, 32);
  const elir_image output = test::image_of(result_, 32, 32);
  EXPECT_EQ(elir_restore(restorer_, &input, &output), ELIR_OK) << "in the parent";
}

// Otherwise the child would wait forever for the image or the thread.
TEST_F(ForkTest, DuringARestoration) {
  struct Gate {
    std::mutex mutex;
    std::condition_variable changed;
    bool reached = false;
    bool open = false;
  } gate;
  const auto done = [](void* user, elir_status, const char*) {
    auto& state = *static_cast<Gate*>(user);
    std::unique_lock lock(state.mutex);
    state.reached = true;
    state.changed.notify_all();
    state.changed.wait(lock, [&] { return state.open; });
  };
  const elir_image input = test::image_of(pixels_, 32, 32);
  const elir_image output = test::image_of(result_, 32, 32);
  ASSERT_EQ(elir_restore_async(restorer_, &input, &output, done, &gate), ELIR_OK);
  {
    std::unique_lock lock(gate.mutex);
    gate.changed.wait(lock, [&] { return gate.reached; });
  }
  EXPECT_EQ(test::in_child([&] { return check_in_child(restorer_); }), 0);
  {
    const std::lock_guard lock(gate.mutex);
    gate.open = true;
  }
  gate.changed.notify_all();
  EXPECT_EQ(elir_wait(restorer_), ELIR_OK);
}

// Forks while the only session is in use or a lock is taken.
TEST_F(ForkTest, OtherThreadsAreRestoring) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      std::vector<std::uint8_t> pixels(3 * 300 * 300);
      std::vector<std::uint8_t> result = pixels;
      const elir_image input = test::image_of(pixels, 300, 300);
      const elir_image output = test::image_of(result, 300, 300);
      while (!stop) EXPECT_EQ(elir_restore(restorer_, &input, &output), ELIR_OK);
    });
  }
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(test::in_child([&] { return check_in_child(restorer_); }), 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ForkTest, NewRestorerInTheChild) {
  const elir_image input = test::image_of(pixels_, 32, 32);
  const elir_image output = test::image_of(result_, 32, 32);
  ASSERT_EQ(elir_restore(restorer_, &input, &output), ELIR_OK);
  EXPECT_EQ(test::in_child([&] {
              const auto expected = result_;
              Restorer child(bundle_, test::reference_params());
              child.restore(input, output);
              return result_ == expected ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace elir
