// The TensorRT backends, on stand-ins for both libraries and CUDA.
#include <fstream>

#include "backends/engines.hpp"
#include "tensorrt_test.hpp"

namespace elir::core {
namespace {

TEST(Engines, RunOnCompatibleHardware) {
  const auto fits = [](const char* target, const char* version, const char* compatibility,
                       const char* device) {
    Artifact artifact;
    artifact.kind = "tensorrt";
    artifact.target = target;
    artifact.tool_version = version;
    artifact.hardware_compatibility = compatibility;
    return runs_on(artifact, device);
  };
  for (const char* version : {"10.3.0", "10.13.0"}) {
    EXPECT_TRUE(fits("sm86", version, "ampere_plus", "sm89"));
    EXPECT_TRUE(fits("sm86", version, "ampere_plus", "sm120"));
    EXPECT_FALSE(fits("sm86", version, "ampere_plus", "sm75"));
    EXPECT_FALSE(fits("sm86", version, "ampere_plus", "sm87"));
    EXPECT_FALSE(fits("sm87", version, "ampere_plus", "sm86"));
    EXPECT_FALSE(fits("sm86", version, "same_compute_capability", "sm89"));
    EXPECT_TRUE(fits("sm86", version, "same_compute_capability", "sm86"));
    EXPECT_FALSE(fits("sm86", version, "none", "sm89"));
    EXPECT_TRUE(fits("sm86", version, "none", "sm86"));
  }
}

TEST_F(TensorRtTest, CapturesTheSecondRun) {
  const auto sessions = open(fitting());
  for (int value = 0; value < 5; ++value) EXPECT_EQ(run(*sessions.front(), value), value + 1);
  EXPECT_EQ(cuda.launches, 4);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(TensorRtTest, BothLibrariesInOneProcess) {
  const auto one = open(fitting());
  const Bundle first = *bundle_;  // the session refers to its stages
  const auto other = open_rtx(fitting_rtx());
  for (int value = 0; value < 3; ++value) {
    EXPECT_EQ(run(*one.front(), value), value + 1);
    EXPECT_EQ(run(*other.front(), value), value + 2);
  }
  EXPECT_TRUE(warnings_.empty());
  tensorrt_rtx.refusal = "Error Code 7: of the other";
  EXPECT_NE(
      error_of(ELIR_ERROR_BUNDLE, [&] { open_rtx(*bundle_); })
          .find("tensorrt-rtx 1.7.1: Error Code 7: of the other: build it again with elir-build "),
      std::string::npos);
}

TEST_F(TensorRtTest, ReasonsWithoutADevice) {
  const Bundle& some = bundle({engine("int8", "sm75", "10.3.0"), engine("fp16", "sm86", "10.3.0")});
  const auto reason = [] { return backend().available().value_or("available"); };
  EXPECT_EQ(reason(), "available");
  cuda.devices = 0;
  EXPECT_EQ(reason(), "the CUDA driver finds no device: see nvidia-smi and CUDA_VISIBLE_DEVICES");
  cuda.refusal = cudaErrorNoDevice;
  EXPECT_EQ(reason(), "the CUDA driver finds no device: see nvidia-smi and CUDA_VISIBLE_DEVICES");
  cuda.refusal = cudaErrorInsufficientDriver;
  cuda.driver = 12020;
  const std::string old = reason();
  EXPECT_EQ(old.find("cudaGetDeviceCount failed with cudaErrorInsufficientDriver (CUDA driver "
                     "version is insufficient): the driver supports CUDA 12.2, libelir "),
            0U);
  EXPECT_NE(old.find(" needs 13.0: update the driver"), std::string::npos) << old;
  cuda.refusal = cudaErrorIllegalAddress;
  EXPECT_EQ(reason(),
            "the CUDA driver does not start (cudaGetDeviceCount failed with "
            "cudaErrorIllegalAddress (an illegal memory access was encountered)): see nvidia-smi");
  cuda.driver = 0;
  EXPECT_EQ(reason(), "no CUDA driver (libcuda.so.1 is not found): install NVIDIA's driver");
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, [&] { open(some); }),
            "tensorrt cannot be used: " + reason());
  EXPECT_EQ(backend().held_precisions(some), (std::vector<std::string>{"int8", "fp16"}));
}

TEST_F(TensorRtTest, UnknownDevice) {
  setup_.device = 1;
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, [&] { open(fitting()); }),
            "there is no CUDA device 1: the driver finds 1; see nvidia-smi and "
            "CUDA_VISIBLE_DEVICES");
}

TEST_F(TensorRtTest, KeepsTheCallersDevice) {
  cuda.devices = 3;
  cuda.current = 2;
  setup_.device = 1;
  {
    const auto sessions = open(fitting());
    EXPECT_EQ(cuda.current, 2);
    run(*sessions.front(), 0);
    EXPECT_EQ(cuda.current, 2);
  }
  EXPECT_EQ(cuda.current, 2);
  tensorrt.refusal = "";
  error_of(ELIR_ERROR_BUNDLE, [&] { open(*bundle_); });
  EXPECT_EQ(cuda.current, 2);
}

TEST_F(TensorRtTest, AllowsCodeInVersionCompatibleEnginesOnly) {
  open(fitting());
  EXPECT_FALSE(tensorrt.host_code);
  open(bundle({engine("fp16", "sm86", "10.2.0", true)}));
  EXPECT_TRUE(tensorrt.host_code);
}

TEST_F(TensorRtTest, DeviceErrorsAreNotBundleErrors) {
  const Bundle& opened = fitting();
  const std::string path = (opened.path() / "engine0").string();
  tensorrt.refusal =
      "[a.cpp::alloc::1] Error Code 2: OutOfMemory (no 5 bytes In f at /_src/a.cpp:7)";
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, [&] { open(opened); }),
            "tensorrt 10.3.0 cannot load " + path + ": Error Code 2: OutOfMemory (no 5 bytes )");
  const std::string damaged = path + " cannot be loaded by tensorrt 10.3.0: ";
  const std::string then =
      ": build it again with elir-build " + opened.path().string() + " --device --precision fp16";
  tensorrt.refusal = "Error Code 1: Serialization (magic tag does not match)";
  EXPECT_EQ(error_of(ELIR_ERROR_BUNDLE, [&] { open(opened); }),
            damaged + "Error Code 1: Serialization (magic tag does not match)" + then);
  tensorrt.refusal = "";
  EXPECT_EQ(error_of(ELIR_ERROR_BUNDLE, [&] { open(opened); }),
            damaged + "it gives no reason" + then)
      << "without the previous error";
}

TEST_F(TensorRtTest, PrecisionsOfFittingEngines) {
  const Bundle& some = bundle({engine("int8", "sm75", "10.3.0"), engine("fp16", "sm86", "10.3.0"),
                               engine("fp32", "sm86", "10.2.0")});
  EXPECT_EQ(backend().held_precisions(some), std::vector<std::string>{"fp16"});
  const Bundle& none = bundle({engine("fp16", "sm75", "10.3.0"), engine("fp16", "sm86", "10.2.0")});
  EXPECT_EQ(backend().held_precisions(none), std::vector<std::string>{"fp16"});
  EXPECT_EQ(
      error_of(ELIR_ERROR_UNAVAILABLE, [&] { open(none); }),
      "no tensorrt engine of " + none.path().string() +
          " fits: it has engines for sm75 by 10.3.0, sm86 by 10.2.0, expected one for sm86 by "
          "tensorrt 10.3.0: "
          "elir-build " +
          none.path().string() + " --device --precision fp16");
}

// Each shape and batch has its own contexts, memory for tensors, and CUDA graph.
TEST_F(TensorRtTest, ShapesAndBatches) {
  options_.shapes = R"([{"batch": 4, "height": 32, "width": 32},
                        {"batch": 4, "height": 60, "width": 30,
                         "padded_height": 64, "padded_width": 32}])";
  options_.noise_stride = 8;
  tensorrt.profiles[1] = {64, 32};
  tensorrt.profile_count = 2;
  tensorrt.batch = 4;
  tensorrt.noise = true;
  const auto sessions = open(fitting());
  Session& session = *sessions.front();
  const auto& shapes = bundle_->manifest().shapes;
  for (int round = 0; round < 3; ++round) {
    for (Shape shape : {shapes[0], shapes[1], shapes[0]}) {
      for (const std::int64_t batch : {shape.batch, std::int64_t{1}}) {
        shape.batch = batch;
        Tensors& tensors = session.tensors(shape);
        EXPECT_EQ(&session.tensors(shape), &tensors);
        const auto pixels = static_cast<std::size_t>(3 * shape.padded_height * shape.padded_width);
        const auto latent =
            static_cast<std::size_t>(shape.padded_height * shape.padded_width / 64 * 16);
        auto* const input = static_cast<std::uint8_t*>(tensors.input());
        for (std::size_t i = 0; i < static_cast<std::size_t>(batch); ++i) {
          std::fill_n(input + i * pixels, pixels, static_cast<std::uint8_t>(10 * i));
          static_cast<float*>(tensors.noise())[i * latent] = static_cast<float>(i);
        }
        tensors.run();
        const auto* const output = static_cast<const std::uint8_t*>(tensors.output());
        for (std::size_t i = 0; i < static_cast<std::size_t>(batch); ++i) {
          EXPECT_EQ(output[i * pixels], 11 * i + 1);
          EXPECT_EQ(output[(i + 1) * pixels - 1], 11 * i + 1);
        }
      }
    }
  }
  EXPECT_EQ(tensorrt.contexts, 4);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(TensorRtTest, EnginesWithoutTheProfileOfAShape) {
  options_.shapes = R"([{"batch": 1, "height": 32, "width": 32},
                        {"batch": 1, "height": 64, "width": 64}])";
  options_.noise_stride = 8;
  tensorrt.profiles[1] = {96, 96};
  tensorrt.profile_count = 2;
  tensorrt.noise = true;
  const std::string file = (folder_.path() / "b" / "engine0").string();
  EXPECT_EQ(error_of(ELIR_ERROR_BUNDLE, [&] { open(fitting()); }),
            file +
                ": profile 1 is for image: uint8 1x96x96x3 to image: uint8 1x96x96x3, expected "
                "image: uint8 1x64x64x3 to image: uint8 1x64x64x3");
  options_.noise_stride = 16;
  EXPECT_EQ(error_of(ELIR_ERROR_BUNDLE, [&] { open(fitting()); }),
            file +
                ": profile 0 is for noise: float32 1x16x4x4 to noise: float32 1x16x4x4, "
                "expected noise: float32 1x16x2x2 to noise: float32 1x16x2x2");
  options_.noise_stride = 8;
  options_.shapes.insert(1, R"({"batch": 1, "height": 64, "width": 32}, )");
  EXPECT_EQ(error_of(ELIR_ERROR_BUNDLE, [&] { open(fitting()); }),
            file + ": the engine has 2 optimisation profiles, expected 3, one for each shape");
  tensorrt.profile_count = 1;
  EXPECT_NE(error_of(ELIR_ERROR_BUNDLE, [&] { open(*bundle_); })
                .find("its input is image: uint8 1x32x32x3, noise: float32 1x16x4x4, the manifest "
                      "says image: uint8 1x?x?x3, noise: float32 1x16x?x?"),
            std::string::npos);
}

TEST_F(TensorRtTest, TensorsMustBeLinearAndOnTheDevice) {
  const Bundle& opened = fitting();
  const auto error = [&] { return error_of(ELIR_ERROR_BUNDLE, [&] { open(opened); }); };
  tensorrt.linear = false;
  EXPECT_NE(error().find("its input is image: uint8 in another format 1x32x32x3, the "
                         "manifest says image: uint8 1x32x32x3"),
            std::string::npos)
      << error();
  tensorrt.linear = true;
  tensorrt.on_device = false;
  EXPECT_NE(error().find("uint8 on the host 1x32x32x3"), std::string::npos) << error();
}

TEST_F(TensorRtTest, RunsWithoutCapture) {
  const std::string warning = "runs are not captured as a CUDA graph and take slightly longer: ";
  cuda.capture_fails = true;
  const auto failed = open(fitting());
  for (int value = 0; value < 3; ++value) EXPECT_EQ(run(*failed.front(), value), value + 1);
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_EQ(warnings_[0], warning +
                              "cudaStreamEndCapture failed with "
                              "cudaErrorStreamCaptureInvalidated (operation failed)");

  tensorrt_rtx.capturable = false;
  const Bundle first = *bundle_;
  const auto refused = open_rtx(fitting_rtx());
  for (int value = 0; value < 3; ++value) EXPECT_EQ(run(*refused.front(), value), value + 2);
  ASSERT_EQ(warnings_.size(), 2U);
  EXPECT_EQ(warnings_[1], warning + "tensorrt-rtx 1.7.1 says that fused cannot be captured");
}

TEST_F(TensorRtTest, ClosesAFailedCapture) {
  const auto sessions = open(fitting());
  run(*sessions.front(), 0);
  tensorrt.no_memory_in_capture = true;
  EXPECT_THROW(run(*sessions.front(), 1), std::bad_alloc);
  EXPECT_FALSE(cuda.last_stream->capturing);
  EXPECT_EQ(run(*sessions.front(), 2), 3);
}

TEST_F(TensorRtTest, NoQueuedWorkAfterAFailure) {
  const auto sessions = open(fitting());
  tensorrt.enqueue_fails = true;
  tensorrt.refusal = "Error Code 7: no";
  EXPECT_EQ(
      error_of(ELIR_ERROR_UNAVAILABLE, [&] { run(*sessions.front(), 0); }),
      "tensorrt 10.3.0: enqueueV3 of fused failed: Error Code 7: no; the session remains usable");
  EXPECT_TRUE(cuda.last_stream->queued.empty());
  tensorrt.refusal = nullptr;
  tensorrt.enqueue_fails = false;
  EXPECT_EQ(run(*sessions.front(), 4), 5);
}

TEST_F(TensorRtTest, DoesNotUseALostDevice) {
  const auto sessions = open(fitting());
  cuda.lost = true;
  const std::string failed =
      "cudaStreamSynchronize failed with cudaErrorIllegalAddress (an illegal memory access was "
      "encountered)";
  const std::string lost = "CUDA device 0 is lost (" + failed + "): restart the process";
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, [&] { run(*sessions.front(), 0); }),
            failed + "; " + lost);
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, [&] { run(*sessions.front(), 0); }), lost);
  EXPECT_EQ(tensorrt.enqueued, 1);
}

}  // namespace
}  // namespace elir::core
