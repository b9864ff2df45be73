// Creates and destroys restorers on OpenVINO: memory, open files and mappings must not grow more
// than with the same calls of OpenVINO alone.
//
//     ELIR_CYCLES=200 ELIR_BUNDLE=elir_deploy/data/tiny.bundle build/cpp/tests/test_leaks
//
// The defaults are 1,000 cycles, and a bundle of 32x32 pixels that adds an image to itself.
#include <gtest/gtest.h>

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <elir/elir.hpp>
#include <fstream>
#include <functional>
#include <iterator>
#include <openvino/openvino.hpp>
#include <sstream>

#include "support.hpp"

namespace elir {
namespace {

namespace fs = std::filesystem;

int cycles() {
  const char* const variable = std::getenv("ELIR_CYCLES");
  return variable == nullptr ? 1000 : std::max(3, std::atoi(variable));
}

double open_files() {
  return static_cast<double>(std::distance(fs::directory_iterator("/proc/self/fd"), {}));
}

double lines(const char* path) {
  std::ifstream file(path);
  return static_cast<double>(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
}

// Resources of the process, or their growth per cycle.
struct Resources {
  double used = 0;      // bytes allocated by malloc
  double resident = 0;  // bytes
  double files = 0;
  double mappings = 0;

  static Resources now() {
    const auto heap = mallinfo2();
    std::ifstream statm("/proc/self/statm");
    double pages = 0;
    statm >> pages >> pages;
    return {static_cast<double>(heap.uordblks + heap.hblkhd),
            pages * static_cast<double>(sysconf(_SC_PAGESIZE)), open_files(),
            lines("/proc/self/maps")};
  }
};

double median(const std::vector<Resources>& all, std::size_t begin, std::size_t end,
              double Resources::* what) {
  std::vector<double> values;
  for (std::size_t i = begin; i < end; ++i) values.push_back(all[i].*what);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Growth per cycle between the medians of the first and the last third after a warm-up: single
// readings vary with threads that end late and caches.
Resources growth(const char* what, int count, const std::function<void()>& cycle) {
  const auto third = static_cast<std::size_t>(count / 3);
  for (std::size_t i = 0; i < std::max<std::size_t>(20, third / 3); ++i) cycle();
  std::vector<Resources> readings;
  for (std::size_t i = 0; i < 3 * third; ++i) {
    cycle();
    readings.push_back(Resources::now());
  }
  const auto grown = [&](double Resources::* value) {
    return (median(readings, 2 * third, 3 * third, value) - median(readings, 0, third, value)) /
           static_cast<double>(2 * third);
  };
  const Resources result{grown(&Resources::used), grown(&Resources::resident),
                         grown(&Resources::files), grown(&Resources::mappings)};
  std::printf("%s: %+.0f bytes used, %+.0f resident, %+.3f files, %+.3f mappings in each of %d\n",
              what, result.used, result.resident, result.files, result.mappings, count);
  std::fflush(stdout);
  return result;
}

class Leaks : public ::testing::Test {
 protected:
  Leaks() {
    const char* const variable = std::getenv("ELIR_BUNDLE");
    bundle_ = variable == nullptr ? (folder_.path() / "b").string() : variable;
    if (variable == nullptr) test::write_bundle(bundle_);
  }

  Resources of_restorers(const char* what, const std::string& cache) const {
    elir_params params = elir_default_params();
    params.backend = "openvino";
    params.precision = "fp32";
    params.cache = cache.c_str();
    const int side = Restorer(bundle_, params).describe().input.shape[1];
    auto pixels = test::pattern(static_cast<std::size_t>(side), static_cast<std::size_t>(side), 0);
    std::vector<std::uint8_t> result(pixels.size());
    return growth(what, cycles(), [&] {
      Restorer restorer(bundle_, params);
      restorer.restore(test::image_of(pixels, side, side), test::image_of(result, side, side));
    });
  }

  // The same calls of OpenVINO alone: compiles the model each time, or imports it.
  Resources of_openvino(const char* what, bool imported) const {
    static auto* core = new ov::Core;
    const std::string graph = bundle_ + "/fused.fp32.onnx";
    const ov::AnyMap config = {
        {"INFERENCE_PRECISION_HINT", "f32"}, {"PERFORMANCE_HINT", "LATENCY"}, {"NUM_STREAMS", 1}};
    const auto compiled = [&] {
      return core->compile_model(core->read_model(graph), "CPU", config);
    };
    std::stringstream exported;
    if (imported) compiled().export_model(exported);
    return growth(what, std::min(cycles(), 100), [&] {
      exported.clear();
      exported.seekg(0);
      ov::CompiledModel model = imported ? core->import_model(exported, "CPU", config) : compiled();
      model.create_infer_request().infer();
    });
  }

  // The limit is below a restorer's smallest buffer, 3,072 bytes for 32x32 pixels. The sanitized
  // build finds smaller leaks, on another backend.
  static void expect_no_leak(const Resources& grown, const Resources& control) {
    EXPECT_LT(grown.used, std::max(control.used, 0.0) + 2048);
    EXPECT_LT(grown.files, 0.05);
    EXPECT_LT(grown.mappings, std::max(control.mappings, 0.0) + 0.5);
  }

  test::Folder folder_;
  std::string bundle_;
};

TEST_F(Leaks, OfRestorers) {
  const Resources control = of_openvino("OpenVINO alone", false);
  expect_no_leak(of_restorers("restorers", ""), control);
}

TEST_F(Leaks, WithModelsFromTheCache) {
  const Resources control = of_openvino("OpenVINO alone, imported", true);
  const std::string cache = (folder_.path() / "c").string();
  expect_no_leak(of_restorers("restorers, from the cache", cache), control);
}

}  // namespace
}  // namespace elir
