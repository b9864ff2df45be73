// The library's time and allocations on top of OpenVINO's.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "choice.hpp"
#include "counted_new.hpp"
#include "pixel_session.hpp"
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

// A session that measures the cost of its runs.
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

// Size of a picture and its enlargement.
struct Input {
  int width;
  int height;
  int factor;
};

class OverheadTest : public ::testing::TestWithParam<Input> {};

TEST_P(OverheadTest, IsSmallAndAllocatesNothing) {
  const auto [width, height, factor] = GetParam();
  const Bundle bundle(ELIR_TINY);
  Cost inside;
  core::Setup setup;
  setup.cache = "";
  auto sessions = backend_named("openvino").open(bundle, "fp32", setup);
  PixelSession session(bundle.manifest(),
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
      picture.block(0, 0, session.input(), session.scratch());
      copy(session.run(), output);
    } else {
      run_tiled(picture, output, session.input(), [&] { return session.run(); }, session.scratch());
    }
  };
  restore();
  double least = 1;  // of several runs, to exclude other processes
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
  // Enlarging uses one thread, however many the network uses.
  if (factor == 1) {
    EXPECT_LT(least, 0.01);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, OverheadTest,
                         ::testing::Values(Input{256, 256, 1}, Input{400, 300, 1}, Input{64, 64, 4},
                                           Input{100, 75, 4}));

}  // namespace
}  // namespace elir::core
