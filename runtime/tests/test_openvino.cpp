// The packaged bundle on OpenVINO, and the cache. tests/runtime_cpp compares the bytes with
// Python's.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <elir/elir.hpp>
#include <fstream>
#include <iterator>
#include <thread>

#include "backends/openvino_model.hpp"
#include "bundle.hpp"
#include "cache.hpp"
#include "choice.hpp"
#include "error.hpp"
#include "onnx_bytes.hpp"
#include "png.hpp"
#include "support.hpp"

namespace elir {
namespace {

namespace fs = std::filesystem;

// Without a cache, unless a test sets its folder.
elir_params openvino_params(const char* precision) {
  elir_params params = elir_default_params();
  params.backend = "openvino";
  params.precision = precision;
  params.cache = "";
  return params;
}

double psnr_on_reference(Restorer& restorer) {
  const core::Bundle bundle(ELIR_TINY);
  const core::Reference& reference = bundle.manifest().references.front();
  const int side = static_cast<int>(bundle.manifest().shapes.front().width);
  const auto read = [&](const std::string& file) {
    const auto pixels = static_cast<std::size_t>(side);
    return core::read_png(bundle.checked_file(file), pixels, pixels);
  };
  auto pixels = read(reference.input);
  const auto expected = read(reference.output);
  std::vector<std::uint8_t> result(pixels.size());
  restorer.restore(test::image_of(pixels, side, side), test::image_of(result, side, side));
  double error = 0;
  for (std::size_t i = 0; i < result.size(); ++i) error += std::pow(result[i] - expected[i], 2);
  return 10 * std::log10(255 * 255 * static_cast<double>(result.size()) / error);
}

// INT8 saturates on x86 processors without VNNI, which gives a warning. The limits are the
// library's.
TEST(OpenVino, EveryPrecisionIsAccurateOrTheLogWarns) {
  const core::Bundle bundle(ELIR_TINY);
  const auto warning_below = [&](const char* precision) {
    return std::min(50.0, bundle.manifest().verified(precision)->psnr_db.value()) - 3;
  };
  for (const auto& [precision, least] : {std::pair("fp32", 60.0),
                                         {"fp16", warning_below("fp16")},
                                         {"int8", warning_below("int8")}}) {
    std::string warnings;
    elir_params params = openvino_params(precision);
    params.log_user = &warnings;
    params.log = [](void* user, elir_log_level level, const char* message) {
      if (level == ELIR_LOG_WARNING) *static_cast<std::string*>(user) += message;
    };
    Restorer restorer(ELIR_TINY, params);
    EXPECT_STREQ(restorer.describe().precision, precision);
    const double reached = psnr_on_reference(restorer);
    if (std::string(precision) == "int8" && reached < least) {
      EXPECT_NE(warnings.find("openvino in int8 is wrong on this machine"), std::string::npos)
          << reached << " dB: " << warnings;
    } else {
      EXPECT_GE(reached, least) << precision;
      EXPECT_EQ(warnings, "") << precision;
    }
  }
}

TEST(OpenVino, Throughput) {
  elir_params params = openvino_params("fp32");
  params.mode = ELIR_MODE_THROUGHPUT;
  Restorer restorer(ELIR_TINY, params);
  EXPECT_GE(restorer.describe().concurrency, 1);
  EXPECT_GT(psnr_on_reference(restorer), 60);
}

// OpenVINO's plugin for processors under another name, as a device that is not the CPU.
TEST(OpenVino, OnADeviceWithAName) {
  core::core().register_plugin("openvino_intel_cpu_plugin", "SPARECPU");
  const test::Folder folder;
  const std::string cache = (folder.path() / "cache").string();
  std::string log;
  elir_params params = openvino_params("fp32");
  params.backend = nullptr;
  params.device_name = "sparecpu";
  params.threads = 1;
  params.cache = cache.c_str();
  params.log_user = &log;
  params.log = [](void* user, elir_log_level, const char* message) {
    *static_cast<std::string*>(user) += message;
  };
  Restorer restorer(ELIR_TINY, params);
  EXPECT_STREQ(restorer.describe().backend, "openvino");
  EXPECT_EQ(log, "tiny: openvino on SPARECPU, fp32");  // no threads of the CPU, and no cache
  EXPECT_FALSE(fs::exists(cache));
  auto pixels = test::pattern(256, 256, 0);
  const auto restored = [&](Restorer& one) {
    std::vector<std::uint8_t> result(pixels.size());
    one.restore(test::image_of(pixels, 256, 256), test::image_of(result, 256, 256));
    return result;
  };
  elir_params on_the_cpu = openvino_params("fp32");
  on_the_cpu.threads = 1;
  Restorer same(ELIR_TINY, on_the_cpu);
  EXPECT_EQ(restored(restorer), restored(same));
}

TEST(OpenVino, DevicesThatAreNotThere) {
  const auto error = [](const char* backend, const char* name, int number, elir_status expected) {
    elir_params params = openvino_params("fp32");
    params.backend = backend;
    params.device_name = name;
    params.device = number;
    elir_restorer* restorer = nullptr;
    EXPECT_EQ(elir_create(ELIR_TINY, &params, &restorer), expected) << elir_last_error();
    return std::string(elir_last_error());
  };
  EXPECT_NE(error("auto", "gpu.7", 0, ELIR_ERROR_UNAVAILABLE)
                .find("openvino finds no device GPU.7, only CPU"),
            std::string::npos);
  EXPECT_NE(error("openvino", "AUTO", 0, ELIR_ERROR_UNAVAILABLE).find("finds no device AUTO"),
            std::string::npos);
  EXPECT_EQ(error("onnxruntime", "GPU", 0, ELIR_ERROR_USAGE).find("onnxruntime has no device"), 0U);
  EXPECT_EQ(error("openvino", "GPU", 1, ELIR_ERROR_USAGE),
            "elir_params.device is 1 and device_name GPU: set one of them");
}

TEST(OpenVino, ThreadsWithOneRestorer) {
  Restorer restorer(ELIR_TINY, openvino_params("fp32"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_GT(psnr_on_reference(restorer), 60); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(OpenVino, FailsInAChildProcess) {
  elir_params params = openvino_params("fp32");
  params.mode = ELIR_MODE_THROUGHPUT;
  elir_restorer* restorer = nullptr;
  ASSERT_EQ(elir_create(ELIR_TINY, &params, &restorer), ELIR_OK);
  std::vector<std::uint8_t> pixels(3 * 256 * 256);
  const elir_image image = test::image_of(pixels, 256, 256);
  auto result = pixels;
  const elir_image output = test::image_of(result, 256, 256);
  ASSERT_EQ(elir_restore(restorer, &image, &output), ELIR_OK);
  EXPECT_EQ(test::in_child([&] {
              const elir_status status = elir_restore(restorer, &image, &output);
              elir_destroy(restorer);
              return static_cast<int>(status);
            }),
            ELIR_ERROR_USAGE);
  elir_destroy(restorer);
}

// With a small graph; tests/runtime_cpp uses a real one.
class OpenVinoCache : public ::testing::Test {
 protected:
  void SetUp() override { test::write_bundle(bundle_); }
  // Restores a picture with this cache folder, and sets `log_` to the log. Returns the result.
  std::vector<std::uint8_t> restored(const std::string& cache, elir_mode mode = ELIR_MODE_LATENCY) {
    log_.clear();
    elir_params params = openvino_params("fp32");
    params.cache = cache.c_str();
    params.mode = mode;
    params.log_user = &log_;
    params.log = [](void* user, elir_log_level level, const char* message) {
      const char* const mark = level == ELIR_LOG_WARNING ? "warning: " : "";
      static_cast<std::vector<std::string>*>(user)->push_back(std::string(mark) + message);
    };
    Restorer restorer(bundle_, params);
    log_.pop_back();  // backend and precision
    auto pixels = test::pattern(32, 32, 0);
    std::vector<std::uint8_t> result(pixels.size());
    restorer.restore(test::image_of(pixels, 32, 32), test::image_of(result, 32, 32));
    return result;
  }
  std::string folder() const { return (folder_.path() / "cache").string(); }
  std::vector<fs::path> cached_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder())) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    return files;
  }

  test::Folder folder_;
  const std::string bundle_ = (folder_.path() / "b").string();
  std::vector<std::string> log_;
  using Lines = std::vector<std::string>;
};

TEST_F(OpenVinoCache, CachesACompiledModel) {
  const auto first = restored(folder());
  ASSERT_EQ(cached_files().size(), 1U);
  const std::string place = cached_files().front().string();
  EXPECT_EQ(log_, Lines{"compiled and cached: " + place});
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(log_, Lines{"loaded from the cache: " + place});
  EXPECT_EQ(restored(folder(), ELIR_MODE_THROUGHPUT), first);
  EXPECT_EQ(log_, Lines{"loaded from the cache: " + place});
}

TEST_F(OpenVinoCache, DetectsAFlippedByte) {
  const auto first = restored(folder());
  const fs::path place = cached_files().front();
  const auto size = fs::file_size(place);
  for (const std::uintmax_t at : {std::uintmax_t{0}, size / 2, size - 40, size - 1}) {
    std::fstream file(place, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 4);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    file.close();
    EXPECT_EQ(restored(folder()), first);
    EXPECT_EQ(log_, (Lines{place.string() + " is damaged, compiling again",
                           "compiled and cached: " + place.string()}));
  }
  fs::resize_file(place, size / 2);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(log_, Lines{"loaded from the cache: " + place.string()});
}

// Sealed, but not a compiled model.
TEST_F(OpenVinoCache, CompilesAgainWhatOpenVinoRejects) {
  const auto first = restored(folder());
  const fs::path place = cached_files().front();
  core::write_sealed(place, [](std::ostream& file) { file << "no model"; });
  EXPECT_EQ(restored(folder()), first);
  ASSERT_EQ(log_.size(), 2U);
  EXPECT_EQ(log_[0].find(place.string() + " is rejected by openvino, compiling again: "), 0U)
      << log_[0];
}

TEST_F(OpenVinoCache, CanBeSwitchedOff) {
  setenv("XDG_CACHE_HOME", folder().c_str(), 1);
  restored("");
  EXPECT_EQ(log_, Lines{});
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(OpenVinoCache, DefaultsToTheUsersFolder) {
  setenv("XDG_CACHE_HOME", folder().c_str(), 1);
  elir_params params = openvino_params("fp32");
  params.cache = nullptr;
  const Restorer restorer(bundle_, params);
  ASSERT_EQ(cached_files().size(), 1U);
  EXPECT_EQ(cached_files().front().string().find(folder() + "/elir-deploy/openvino/"), 0U);
}

TEST_F(OpenVinoCache, Limit) {
  const std::string then = "; compiled models are not cached, and every start takes longer";
  const auto first = restored(folder());
  const fs::path place = cached_files().front();
  const fs::path older = place.parent_path() / "older.blob";
  fs::copy_file(place, older);
  fs::last_write_time(older, fs::last_write_time(older) - std::chrono::hours(1));
  fs::resize_file(place, 10);
  // Enough for one. A second is slightly larger, since OpenVINO numbers names per process.
  setenv("ELIR_CACHE_LIMIT", std::to_string(fs::file_size(older) * 3 / 2).c_str(), 1);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(cached_files(), std::vector<fs::path>{place});
  setenv("ELIR_CACHE_LIMIT", "0", 1);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(log_, Lines{});
  setenv("ELIR_CACHE_LIMIT", "1", 1);
  fs::remove(place);
  EXPECT_EQ(restored(folder()), first);
  ASSERT_EQ(log_.size(), 1U);
  EXPECT_NE(log_[0].find(" MB, ELIR_CACHE_LIMIT is 0.0 MB" + then), std::string::npos) << log_[0];
  setenv("ELIR_CACHE_LIMIT", "much", 1);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(
      log_,
      Lines{"warning: ELIR_CACHE_LIMIT is much, expected a size such as 500M or 2G, or 0" + then});
  EXPECT_EQ(cached_files(), std::vector<fs::path>{});
  unsetenv("ELIR_CACHE_LIMIT");
}

// Failures of the cache are warnings.
TEST_F(OpenVinoCache, CannotBeWritten) {
  const auto first = restored(folder());
  const fs::path place = cached_files().front();
  const std::string then = "; compiled models are not cached, and every start takes longer";
  EXPECT_EQ(restored(place.string()), first);
  ASSERT_EQ(log_.size(), 1U);
  EXPECT_EQ(log_[0].find("warning: " + place.string() + "/openvino/"), 0U) << log_[0];
  EXPECT_NE(log_[0].find(" cannot be created: set ELIR_CACHE (Not a directory)" + then),
            std::string::npos)
      << log_[0];
  fs::remove(place);
  fs::create_directory(place);
  EXPECT_EQ(restored(folder()), first);
  EXPECT_EQ(log_,
            (Lines{place.string() + " is damaged, compiling again",
                   "warning: " + place.string() + " cannot be written: Is a directory" + then}));
}

TEST_F(OpenVinoCache, ReadOnlyFolder) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const auto first = restored(folder());
  const fs::path place = cached_files().front();
  fs::remove(place);
  fs::permissions(place.parent_path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(restored(folder()), first);
  ASSERT_EQ(log_.size(), 1U);
  EXPECT_NE(log_[0].find("cannot be written: Permission denied"), std::string::npos) << log_[0];
  fs::permissions(place.parent_path(), fs::perms::owner_all);
}

TEST_F(OpenVinoCache, ConcurrentRestorers) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const std::string cache = folder();
      elir_params params = openvino_params("fp32");
      params.cache = cache.c_str();
      const Restorer restorer(bundle_, params);
      EXPECT_EQ(restorer.describe().shapes[0].width, 32);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cached_files().size(), 1U);
}

// Expects all backends to reject a graph with this node, which passes the check of ONNX files.
void expect_refused_by_all(const std::string& node, const std::string& why) {
  const auto end = [](const char* name) {
    return test::onnx_value(name, test::kOnnxUint8, {1, 32, 32, 3});
  };
  test::BundleOptions options;
  options.graph =
      test::onnx_model(test::OnnxGraph{{node}, {}, {end("image")}, end("restored")}.content());
  const test::Folder folder;
  const std::string path = (folder.path() / "b").string();
  test::write_bundle(path, options);
  const std::string built = elir_backends();
  for (const std::string name : {"openvino", "onnxruntime"}) {
    if (built.find(name) == std::string::npos) continue;
    elir_params params = openvino_params("fp32");
    params.backend = name.c_str();
    elir_restorer* restorer = nullptr;
    EXPECT_EQ(elir_create(path.c_str(), &params, &restorer), ELIR_ERROR_BUNDLE) << name;
    EXPECT_NE(std::string(elir_last_error()).find(why), std::string::npos) << elir_last_error();
  }
}

TEST(OpenVino, InvalidGraph) {
  expect_refused_by_all(test::onnx_node("Add", {"image", "nothing"}, "restored"),
                        "fused.fp32.onnx cannot be loaded by ");
}

// The graph declares the right size; only the library computes the actual one.
TEST(OpenVino, GraphThatComputesAnotherSize) {
  const std::string axis =
      test::bytes(5, test::bytes(1, "axis") + test::number(3, 1) + test::number(20, 2));
  expect_refused_by_all(test::onnx_node("Concat", {"image", "image"}, "restored", axis),
                        " output is restored: uint8 1x");
}

}  // namespace
}  // namespace elir
