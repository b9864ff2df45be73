// Bundles with engines for the stand-ins of TensorRT, TensorRT-RTX and CUDA.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <optional>

#include "backends/all.hpp"
#include "bundle.hpp"
#include "error.hpp"
#include "golden.hpp"
#include "shared_library.hpp"
#include "support.hpp"
#include "tensorrt.hpp"

namespace elir::core {

using test::Golden;

// The state of the stand-in that the backend opens, too: a process opens a library once.
inline StandInTensorRt& state_of(const char* file) {
  return *SharedLibrary(file).function<StandInTensorRt* (*)()>("stand_in_tensorrt")();
}
inline StandInTensorRt& tensorrt = state_of("libnvinfer.so.10");
inline StandInTensorRt& tensorrt_rtx = state_of("libtensorrt_rtx.so.1");

// An engine of the bundle's one stage.
inline Golden engine(const char* precision, const char* target, const char* version,
                     bool version_compatible = false) {
  return {{"precision", precision},
          {"target", target},
          {"tool_version", version},
          {"version_compatible", version_compatible}};
}

class TensorRtTest : public ::testing::Test {
 protected:
  TensorRtTest() {
    cuda = Cuda();
    tensorrt = StandInTensorRt();
    tensorrt_rtx = StandInTensorRt();
    setup_.log.user = &warnings_;
    setup_.log.callback = [](void* user, elir_log_level, const char* message) {
      static_cast<std::vector<std::string>*>(user)->push_back(message);
    };
  }
  ~TensorRtTest() override {
    bundle_.reset();
    EXPECT_EQ(cuda.objects, 0);
    EXPECT_EQ(cuda.wrong_copies, 0);
  }

  const Bundle& bundle(const std::vector<Golden>& engines, const char* kind = "tensorrt") {
    const auto path = folder_.path() / "b";
    test::write_bundle(path, options_);
    Golden manifest = Golden::parse(std::ifstream(path / "bundle.json"));
    Golden& artifacts = manifest["stages"][0]["artifacts"];
    manifest["precisions"] = {"fp32", "fp16", "int8"};
    for (std::size_t i = 0; i < engines.size(); ++i) {
      Golden entry = artifacts[0];
      entry.update(engines[i]);
      entry["kind"] = kind;
      entry["file"] = "engine" + std::to_string(i);
      std::filesystem::copy_file(path / "fused.fp32.onnx", path / entry["file"].get<std::string>(),
                                 std::filesystem::copy_options::overwrite_existing);
      artifacts.push_back(std::move(entry));
    }
    test::write_file(path / "bundle.json", manifest.dump());
    bundle_.emplace(path.string());
    return *bundle_;
  }
  const Bundle& fitting() { return bundle({engine("fp16", "sm86", "10.3.0")}); }
  const Bundle& fitting_rtx() { return bundle({engine("fp16", "sm86", "1.7.1")}, "tensorrt-rtx"); }

  std::vector<std::unique_ptr<Session>> open(const Bundle& opened) {
    return backend().open(opened, "fp16", setup_);
  }
  std::vector<std::unique_ptr<Session>> open_rtx(const Bundle& opened) {
    return backend_rtx().open(opened, "fp16", setup_);
  }
  static const Backend& backend() { return tensorrt_backend(); }
  static const Backend& backend_rtx() { return tensorrt_rtx_backend(); }

  template <typename Call>
  static std::string error_of(elir_status status, Call call) {
    try {
      call();
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.status(), status) << failure.what();
      return failure.what();
    }
    return "no failure";
  }

  // Runs a picture with `value` in all pixels. Returns the value in the result.
  static int run(Session& session, int value) {
    Shape shape;
    shape.padded_height = shape.padded_width = 32;
    Tensors& tensors = session.tensors(shape);
    std::memset(tensors.input(), value, 32 * 32 * 3);
    tensors.run();
    return static_cast<const std::uint8_t*>(tensors.output())[0];
  }

  test::Folder folder_;
  test::BundleOptions options_;
  std::optional<Bundle> bundle_;
  core::Setup setup_;
  std::vector<std::string> warnings_;
};

}  // namespace elir::core
