// The library's time and allocations on top of OpenVINO's.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>

#include "choice.hpp"
#include "counted_new.hpp"
#include "golden.hpp"
#include "restorer.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

struct Cost {
  double seconds = 0;
  long allocations = 0;
};

Cost inside;

// Measures the cost of runs.
class MeasuredTensors final : public Tensors {
 public:
  explicit MeasuredTensors(Tensors& inner) : inner_(inner) {}
  void* input() override { return inner_.input(); }
  void* noise() override { return inner_.noise(); }
  void* output() override { return inner_.output(); }
  void run() override {
    const long before = test::allocations();
    const auto start = Clock::now();
    inner_.run();
    inside.seconds += Seconds(Clock::now() - start).count();
    inside.allocations += test::allocations() - before;
  }

 private:
  Tensors& inner_;
};

class MeasuredSession final : public Session {
 public:
  explicit MeasuredSession(std::unique_ptr<Session> inner) : inner_(std::move(inner)) {}

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    return std::make_unique<MeasuredTensors>(inner_->tensors(shape));
  }

  std::unique_ptr<Session> inner_;
};

class MeasuredBackend final : public Backend {
 public:
  MeasuredBackend() : Backend({"measured", "onnx", {"fp32"}, true}) {}

  std::optional<std::string> available() const override { return std::nullopt; }
  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    std::vector<std::unique_ptr<Session>> sessions;
    for (auto& session : backend_named("openvino").open(bundle, precision, setup)) {
      sessions.push_back(std::make_unique<MeasuredSession>(std::move(session)));
    }
    return sessions;
  }
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
  const test::Folder folder;
  const auto path = folder.path() / "b";
  std::filesystem::copy(ELIR_TINY, path, std::filesystem::copy_options::recursive);
  test::Golden manifest = test::Golden::parse(std::ifstream(path / "bundle.json"));
  manifest["model"]["upscale"] = factor;
  manifest["model"]["upscale_kernel"] = factor == 1 ? "none" : "bicubic";
  test::write_file(path / "bundle.json", manifest.dump());
  const MeasuredBackend backend;
  OpenOptions options;
  options.backend = "measured";
  options.precision = "fp32";
  options.among = {&backend};
  options.setup.cache = "";
  Restorer restorer(path.string(), options);
  auto pixels = test::pattern(static_cast<std::size_t>(width), static_cast<std::size_t>(height), 0);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(factor * factor));
  elir_image input = test::image_of(pixels, width, height);
  input.format = ELIR_BGR8;
  const elir_image output = test::image_of(result, width * factor, height * factor);
  const auto restore = [&] { restorer.restore(input, output); };
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
