// The packaged bundle on OpenVINO. That the bytes are Python's is tested from Python, in
// tests/runtime_cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <elir/elir.hpp>
#include <fstream>
#include <thread>

#include "bundle.hpp"
#include "choice.hpp"
#include "error.hpp"
#include "png.hpp"
#include "support.hpp"

namespace elir {
namespace {

namespace fs = std::filesystem;

elir_params openvino_params(const char* precision) {
  elir_params params = elir_default_params();
  params.backend = "openvino";
  params.precision = precision;
  return params;
}

double psnr_on_reference(Restorer& restorer) {
  const core::Bundle bundle(ELIR_TINY);
  const core::Reference& reference = bundle.manifest().references.front();
  const int side = bundle.manifest().image_size;
  auto pixels = core::read_png(bundle.checked_file(reference.input), side);
  const auto wanted = core::read_png(bundle.checked_file(reference.output), side);
  std::vector<std::uint8_t> result(pixels.size());
  restorer.restore(test::image_of(pixels, side, side), test::image_of(result, side, side));
  double error = 0;
  for (std::size_t i = 0; i < result.size(); ++i) error += std::pow(result[i] - wanted[i], 2);
  return 10 * std::log10(255 * 255 * static_cast<double>(result.size()) / error);
}

TEST(OpenVino, EveryPrecisionIsWhatItShouldBe) {
  for (const auto& [precision, least] : {std::pair("fp32", 60.0), {"fp16", 45.0}, {"int8", 35.0}}) {
    Restorer restorer(ELIR_TINY, openvino_params(precision));
    EXPECT_STREQ(restorer.describe().precision, precision);
    EXPECT_GT(psnr_on_reference(restorer), least) << precision;
  }
}

TEST(OpenVino, Throughput) {
  elir_params params = openvino_params("fp32");
  params.mode = ELIR_MODE_THROUGHPUT;
  Restorer restorer(ELIR_TINY, params);
  EXPECT_GE(restorer.describe().at_once, 1);
  EXPECT_GT(psnr_on_reference(restorer), 60);
}

TEST(OpenVino, ThreadsThroughOneHandle) {
  Restorer restorer(ELIR_TINY, openvino_params("fp32"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_GT(psnr_on_reference(restorer), 60); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(OpenVino, ADamagedGraphWithTheRightHash) {
  const test::Folder folder;
  test::write_bundle(folder.path() / "b");  // its graphs are text
  const std::string path = (folder.path() / "b").string();
  elir_restorer* made = nullptr;
  const elir_params params = openvino_params("fp32");
  EXPECT_EQ(elir_create(path.c_str(), &params, &made), ELIR_ERROR_BUNDLE);
  EXPECT_NE(std::string(elir_last_error()).find("fused.fp32.onnx cannot be loaded by openvino"),
            std::string::npos)
      << elir_last_error();
}

}  // namespace
}  // namespace elir
