// What this library adds to OpenVINO's own run: time, and allocations.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "choice.hpp"
#include "counted_new.hpp"
#include "runner.hpp"
#include "support.hpp"
#include "tiling.hpp"

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

// A picture's size and the factor it is enlarged by first, as super-resolution does.
struct Given {
  int width;
  int height;
  int factor;
};

class OverheadTest : public ::testing::TestWithParam<Given> {};

TEST_P(OverheadTest, IsSmallAndAllocatesNothing) {
  const auto [width, height, factor] = GetParam();
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
  const EnlargedPicture picture(packed(pixels.data(), across, down), true, factor,
                                factor == 1 ? Kernel::none : Kernel::bicubic);
  std::vector<std::uint8_t> result(3 * picture.width() * picture.height());
  const Pixels output = packed(result.data(), picture.width(), picture.height());
  const auto restore = [&] {
    if (picture.width() == 256 && picture.height() == 256) {
      picture.block(0, 0, runner.input(), runner.scratch());
      copy(runner.run(), output);
    } else {
      run_tiled(picture, output, runner.input(), [&] { return runner.run(); }, runner.scratch());
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
  std::printf("%dx%d, x%d: %.3f %% beside %.1f ms\n", width, height, factor, 100 * least,
              1000 * inside.seconds);
  // Enlarging takes one thread the same time however many the model has.
  if (factor == 1) {
    EXPECT_LT(least, 0.01);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, OverheadTest,
                         ::testing::Values(Given{256, 256, 1}, Given{400, 300, 1}, Given{64, 64, 4},
                                           Given{100, 75, 4}));

}  // namespace
}  // namespace elir::core
