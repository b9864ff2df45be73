// What this library adds to OpenVINO's own run: time, and allocations.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "choice.hpp"
#include "counted_new.hpp"
#include "runner.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct Cost {
  double seconds = 0;
  long allocations = 0;
};

// A session that knows what was spent inside.
class MeasuredSession final : public Session {
 public:
  MeasuredSession(std::unique_ptr<Session> inner, Cost& inside)
      : inner_(std::move(inner)), inside_(inside) {}
  void* input() override { return inner_->input(); }
  void* output() override { return inner_->output(); }
  void run() override {
    const long before = test::allocations();
    const auto start = Clock::now();
    inner_->run();
    inside_.seconds += Seconds(Clock::now() - start).count();
    inside_.allocations += test::allocations() - before;
  }

 private:
  std::unique_ptr<Session> inner_;
  Cost& inside_;
};

class OverheadTest : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(OverheadTest, IsSmallAndAllocatesNothing) {
  const auto [width, height] = GetParam();
  const Bundle bundle(ELIR_TINY);
  Cost inside;
  core::Setup setup;
  setup.cache = "";
  auto sessions = backend_named("openvino").open(bundle, "fp32", setup);
  Runner runner(bundle.manifest(),
                std::make_unique<MeasuredSession>(std::move(sessions.front()), inside));
  const auto across = static_cast<std::size_t>(width);
  const auto down = static_cast<std::size_t>(height);
  const auto pixels = test::pattern(across, down, 0);
  std::vector<std::uint8_t> result(pixels.size());
  const EnlargedPicture picture(packed(pixels.data(), across, down), true, 1, Kernel::none);
  const Pixels output = packed(result.data(), across, down);
  const auto restore = [&] {
    if (width == 256 && height == 256) {
      picture.block(0, 0, runner.input(), runner.scratch());
      copy(runner.run(), output);
    } else {
      run_tiled(picture, output, runner, runner.scratch());
    }
  };
  restore();
  double least = 1;  // of several, since other processes also cost time
  for (int i = 0; i < 5; ++i) {
    inside = {};
    const long before = test::allocations();
    const auto start = Clock::now();
    restore();
    const double whole = Seconds(Clock::now() - start).count();
    EXPECT_EQ(test::allocations() - before - inside.allocations, 0);
    least = std::min(least, (whole - inside.seconds) / inside.seconds);
  }
  std::printf("%dx%d: %.3f %% beside %.1f ms\n", width, height, 100 * least, 1000 * inside.seconds);
  EXPECT_LT(least, 0.01);
}

INSTANTIATE_TEST_SUITE_P(Sizes, OverheadTest,
                         ::testing::Values(std::pair(256, 256), std::pair(400, 300)));

}  // namespace
}  // namespace elir::core
