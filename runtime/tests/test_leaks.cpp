// Restorers on OpenVINO, created and destroyed again and again: memory grows no more than by the
// same calls of OpenVINO alone, and neither do open files and mappings.
//
//     ELIR_CYCLES=200 ELIR_BUNDLE=elir_deploy/data/tiny.bundle build/cpp/tests/test_leaks
//
// Without a bundle it is one of 32x32 pixels that adds an image to itself, with 1,000 cycles.
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
  const char* const wanted = std::getenv("ELIR_CYCLES");
  return wanted == nullptr ? 1000 : std::max(3, std::atoi(wanted));
}

double open_files() {
  return static_cast<double>(std::distance(fs::directory_iterator("/proc/self/fd"), {}));
}

double lines(const char* path) {
  std::ifstream file(path);
  return static_cast<double>(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
}

// What a process holds, or by how much more in each cycle.
struct Held {
  double used = 0;      // bytes that malloc gave out, in all its arenas
  double resident = 0;  // bytes
  double files = 0;
  double mappings = 0;

  static Held now() {
    const auto heap = mallinfo2();
    std::ifstream statm("/proc/self/statm");
    double pages = 0;
    statm >> pages >> pages;
    return {static_cast<double>(heap.uordblks + heap.hblkhd),
            pages * static_cast<double>(sysconf(_SC_PAGESIZE)), open_files(),
            lines("/proc/self/maps")};
  }
};

double median(const std::vector<Held>& all, std::size_t begin, std::size_t end,
              double Held::* what) {
  std::vector<double> values;
  for (std::size_t i = begin; i < end; ++i) values.push_back(all[i].*what);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Between the medians of the first and the last third of the cycles after a warm-up: threads that
// end late, and caches that fill, make single readings jump.
Held growth(const char* what, int count, const std::function<void()>& cycle) {
  const auto third = static_cast<std::size_t>(count / 3);
  for (std::size_t i = 0; i < std::max<std::size_t>(20, third / 3); ++i) cycle();
  std::vector<Held> seen;
  for (std::size_t i = 0; i < 3 * third; ++i) {
    cycle();
    seen.push_back(Held::now());
  }
  const auto grown = [&](double Held::* value) {
    return (median(seen, 2 * third, 3 * third, value) - median(seen, 0, third, value)) /
           static_cast<double>(2 * third);
  };
  const Held made{grown(&Held::used), grown(&Held::resident), grown(&Held::files),
                  grown(&Held::mappings)};
  std::printf("%s: %+.0f bytes used, %+.0f resident, %+.3f files, %+.3f mappings in each of %d\n",
              what, made.used, made.resident, made.files, made.mappings, count);
  std::fflush(stdout);
  return made;
}

class Leaks : public ::testing::Test {
 protected:
  Leaks() {
    const char* const named = std::getenv("ELIR_BUNDLE");
    bundle_ = named == nullptr ? (folder_.path() / "b").string() : named;
    if (named == nullptr) test::write_bundle(bundle_);
  }

  Held of_restorers(const char* what, const std::string& cache) const {
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

  // The same calls of OpenVINO alone: the model compiled each time, or taken from memory.
  Held of_openvino(const char* what, bool imported) const {
    static auto* core = new ov::Core;
    const std::string graph = bundle_ + "/fused.fp32.onnx";
    const ov::AnyMap config = {
        {"INFERENCE_PRECISION_HINT", "f32"}, {"PERFORMANCE_HINT", "LATENCY"}, {"NUM_STREAMS", 1}};
    const auto compiled = [&] {
      return core->compile_model(core->read_model(graph), "CPU", config);
    };
    std::stringstream kept;
    if (imported) compiled().export_model(kept);
    return growth(what, std::min(cycles(), 100), [&] {
      kept.clear();
      kept.seekg(0);
      ov::CompiledModel made = imported ? core->import_model(kept, "CPU", config) : compiled();
      made.create_infer_request().infer();
    });
  }

  // Less than the least of a restorer's buffers, 3,072 bytes for a picture of 32x32. What is small
  // is found in the sanitized build, on another backend.
  static void expect_no_leak(const Held& grown, const Held& control) {
    EXPECT_LT(grown.used, std::max(control.used, 0.0) + 2048);
    EXPECT_LT(grown.files, 0.05);
    EXPECT_LT(grown.mappings, std::max(control.mappings, 0.0) + 0.5);
  }

  test::Folder folder_;
  std::string bundle_;
};

TEST_F(Leaks, NoneBesideOpenVinos) {
  const Held control = of_openvino("OpenVINO alone", false);
  expect_no_leak(of_restorers("restorers", ""), control);
}

TEST_F(Leaks, NoneWithModelsFromTheCache) {
  const Held control = of_openvino("OpenVINO alone, imported", true);
  const std::string cache = (folder_.path() / "c").string();
  expect_no_leak(of_restorers("restorers, from the cache", cache), control);
}

}  // namespace
}  // namespace elir
