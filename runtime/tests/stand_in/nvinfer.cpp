// The library for NvInfer.h in this folder. An engine of a face detector computes what the
// reference detector does; every other one adds 1, or 2 with STAND_IN_RTX, and the first value of
// the noise, if there is one, to every byte of an image. STAND_IN_RELEASE changes the release.
#ifdef STAND_IN_RTX
#define nvinfer1 elir_nvinfer1_rtx  // as in the backend, for UndefinedBehaviorSanitizer
#endif
#include "NvInfer.h"

#include <cstring>
#include <map>
#include <new>
#include <string>

#include "../reference_detector.hpp"
#include "tensorrt.hpp"

namespace {

StandInTensorRt state;
nvinfer1::ILogger* logger = nullptr;

#ifdef STAND_IN_RTX
constexpr int kAdded = 2;
#else
constexpr int kAdded = 1;
#endif

// Whether calls fail; logs the reason.
bool refused() {
  if (state.refusal == nullptr) return false;
  if (*state.refusal != '\0') {
    logger->log(nvinfer1::ILogger::Severity::kERROR, state.refusal);
  }
  return true;
}

constexpr std::int64_t kWorkingBytes = 64;

class Context final : public nvinfer1::IExecutionContext {
 public:
  // As TensorRT 8.6 does, the first context of an engine has profile 0, and others have none.
  Context() : profile_(state.contexts++ == 0 ? 0 : -1) {
    if (state.profile_count == 1 && state.batch == 1) profile_ = 0;
  }
  ~Context() override { --state.contexts; }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  bool setTensorAddress(const char* name, void* data) override {
    const std::string tensor = name;
    if (tensor == "noise") {
      noise_ = static_cast<float*>(data);
    } else {
      (tensor == "image" ? input_ : output_) = static_cast<std::uint8_t*>(data);
    }
    return true;
  }
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t /*stream*/) override {
    if (profile < 0 || profile >= state.profile_count) return false;
    profile_ = profile;
    return true;
  }
  bool setInputShape(const char* name, const nvinfer1::Dims& dims) override {
    if (profile_ < 0) return false;
    const auto [height, width] = state.profiles[profile_];
    if (dims.nbDims != 4 || dims.d[0] < 1 || dims.d[0] > state.batch) return false;
    batch_ = dims.d[0];
    if (std::string(name) == "noise") {
      return dims.d[1] == 16 && dims.d[2] == height / 8 && dims.d[3] == width / 8;
    }
    if (state.floats) return dims.d[1] == 3 && dims.d[2] == height && dims.d[3] == width;
    return dims.d[1] == height && dims.d[2] == width && dims.d[3] == 3;
  }
  nvinfer1::Dims getTensorShape(const char* /*name*/) const override { return {}; }
  void setDeviceMemoryV2(void* memory, std::int64_t size) override {
    working_ = size < kWorkingBytes ? nullptr : static_cast<char*>(memory);
  }
#ifdef STAND_IN_RTX
  bool isStreamCapturable(cudaStream_t /*stream*/) override { return state.capturable; }
#endif
  bool enqueueV3(cudaStream_t stream) override {
    if (stream->capturing && state.no_memory_in_capture) throw std::bad_alloc();
    ++state.enqueued;
    if (state.enqueue_fails) return !refused();
    const auto [height, width] = state.profiles[profile_];
    stream->add([in = input_, out = output_, noise = noise_, working = working_, batch = batch_,
                 height = height, width = width] {
      working[kWorkingBytes - 1] = 1;
      const std::int64_t image = std::int64_t{3} * height * width;
      const std::int64_t latent = std::int64_t{16} * (height / 8) * (width / 8);
      state.seen.assign(in, in + batch * image);
      for (std::int64_t i = 0; i < batch * image; ++i) {
        const auto more = noise == nullptr ? 0 : static_cast<int>(noise[i / image * latent]);
        out[i] = static_cast<std::uint8_t>(in[i] + kAdded + more);
      }
    });
    return true;
  }

 private:
  std::uint8_t* input_ = nullptr;
  std::uint8_t* output_ = nullptr;
  float* noise_ = nullptr;
  char* working_ = nullptr;
  std::int32_t profile_;
  std::int64_t batch_ = 1;
};

class Engine final : public nvinfer1::ICudaEngine {
 public:
#ifdef STAND_IN_RTX
  void* createRuntimeConfig() override { return nullptr; }
#endif
  std::int32_t getNbIOTensors() const override { return state.noise ? 3 : 2; }
  const char* getIOTensorName(std::int32_t index) const override {
    return index == 0 ? "image" : index == 1 ? "restored" : "noise";
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const override {
    return std::string(name) == "restored" ? nvinfer1::TensorIOMode::kOUTPUT
                                           : nvinfer1::TensorIOMode::kINPUT;
  }
  nvinfer1::Dims getTensorShape(const char* name) const override {
    const bool open = state.profile_count > 1;
    const auto [height, width] = state.profiles[0];
    const std::int64_t batch = state.batch > 1 ? -1 : 1;
    if (std::string(name) == "noise") {
      return {4, {batch, 16, open ? -1 : height / 8, open ? -1 : width / 8}};
    }
    if (state.floats) return {4, {batch, 3, open ? -1 : height, open ? -1 : width}};
    return {4, {batch, open ? -1 : height, open ? -1 : width, 3}};
  }
  nvinfer1::DataType getTensorDataType(const char* name) const override {
    return state.floats || std::string(name) == "noise" ? nvinfer1::DataType::kFLOAT
                                                        : nvinfer1::DataType::kUINT8;
  }
  nvinfer1::TensorFormat getTensorFormat(const char* /*name*/) const override {
    return state.linear ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kCHW32;
  }
  nvinfer1::TensorLocation getTensorLocation(const char* /*name*/) const override {
    return state.on_device ? nvinfer1::TensorLocation::kDEVICE : nvinfer1::TensorLocation::kHOST;
  }
  std::int64_t getDeviceMemorySizeV2() const override { return kWorkingBytes; }
  std::int32_t getNbOptimizationProfiles() const override { return state.profile_count; }
  nvinfer1::Dims getProfileShape(const char* name, std::int32_t profile,
                                 nvinfer1::OptProfileSelector select) const override {
    const std::int64_t batch = select == nvinfer1::OptProfileSelector::kMIN ? 1 : state.batch;
    const auto [height, width] = state.profiles[profile];
    if (std::string(name) == "noise") return {4, {batch, 16, height / 8, width / 8}};
    return {4, {batch, height, width, 3}};
  }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy /*strategy*/) override {
    return refused() ? nullptr : new Context;
  }
};

nvinfer1::Dims detector_shape(const std::string& name, std::int64_t height, std::int64_t width) {
  for (const auto& [output, channels] : elir::test::kReferenceOutputs) {
    if (name != output) continue;
    return {4, {1, channels, height < 0 ? -1 : height / 4, width < 0 ? -1 : width / 4}};
  }
  return {4, {1, 3, height, width}};
}

class DetectorContext final : public nvinfer1::IExecutionContext {
 public:
  DetectorContext() { ++state.contexts; }
  ~DetectorContext() override { --state.contexts; }
  DetectorContext(const DetectorContext&) = delete;
  DetectorContext& operator=(const DetectorContext&) = delete;

  bool setTensorAddress(const char* name, void* data) override {
    addresses_[name] = static_cast<float*>(data);
    return true;
  }
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t /*stream*/) override {
    profile_ = profile;
    return profile >= 0 && profile < 3;
  }
  bool setInputShape(const char* name, const nvinfer1::Dims& dims) override {
    if (profile_ < 0 || std::string(name) != state.detector_input) return false;
    const auto [height, width] = state.detector_profiles[profile_];
    height_ = height;
    width_ = width;
    return dims.nbDims == 4 && dims.d[0] == 1 && dims.d[1] == 3 && dims.d[2] == height &&
           dims.d[3] == width;
  }
  nvinfer1::Dims getTensorShape(const char* name) const override {
    return detector_shape(name, state.unknown_outputs ? -1 : height_, width_);
  }
  void setDeviceMemoryV2(void* memory, std::int64_t size) override {
    working_ = size < kWorkingBytes ? nullptr : static_cast<char*>(memory);
  }
#ifdef STAND_IN_RTX
  bool isStreamCapturable(cudaStream_t /*stream*/) override { return state.capturable; }
#endif
  bool enqueueV3(cudaStream_t stream) override {
    ++state.enqueued;
    if (state.enqueue_fails) return !refused();
    stream->add([this] {
      working_[kWorkingBytes - 1] = 1;
      const auto values = elir::test::reference_outputs(addresses_.at(state.detector_input),
                                                        height_, width_, state.landmarks);
      for (std::size_t i = 0; i < values.size(); ++i) {
        std::memcpy(addresses_.at(elir::test::kReferenceOutputs[i].name), values[i].data(),
                    sizeof(float) * values[i].size());
      }
    });
    return true;
  }

 private:
  std::map<std::string, float*> addresses_;
  char* working_ = nullptr;
  std::int32_t profile_ = -1;
  std::int64_t height_ = 0;
  std::int64_t width_ = 0;
};

class DetectorEngine final : public nvinfer1::ICudaEngine {
 public:
#ifdef STAND_IN_RTX
  void* createRuntimeConfig() override { return nullptr; }
#endif
  std::int32_t getNbIOTensors() const override { return 5; }
  const char* getIOTensorName(std::int32_t index) const override {
    const auto output = static_cast<std::size_t>(index) - 1;
    return index == 0 ? state.detector_input : elir::test::kReferenceOutputs[output].name;
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const override {
    return std::string(name) == state.detector_input ? nvinfer1::TensorIOMode::kINPUT
                                                     : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::Dims getTensorShape(const char* name) const override {
    return detector_shape(name, -1, -1);
  }
  nvinfer1::DataType getTensorDataType(const char* /*name*/) const override {
    return nvinfer1::DataType::kFLOAT;
  }
  nvinfer1::TensorFormat getTensorFormat(const char* /*name*/) const override {
    return state.linear ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kCHW32;
  }
  nvinfer1::TensorLocation getTensorLocation(const char* /*name*/) const override {
    return nvinfer1::TensorLocation::kDEVICE;
  }
  std::int64_t getDeviceMemorySizeV2() const override { return kWorkingBytes; }
  std::int32_t getNbOptimizationProfiles() const override { return 3; }
  nvinfer1::Dims getProfileShape(const char* /*name*/, std::int32_t profile,
                                 nvinfer1::OptProfileSelector select) const override {
    const auto [height, width] = state.detector_profiles[profile];
    const bool least = state.open_profiles && select == nvinfer1::OptProfileSelector::kMIN;
    return {4, {1, 3, least ? 32 : height, width}};
  }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy /*strategy*/) override {
    return refused() ? nullptr : new DetectorContext;
  }
};

class Runtime final : public nvinfer1::IRuntime {
 public:
#ifndef STAND_IN_RTX
  void setEngineHostCodeAllowed(bool allowed) override { state.host_code = allowed; }
#endif
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) override {
    if (refused()) return nullptr;
    const std::string detector = "detector";
    const bool same =
        size >= detector.size() && std::memcmp(data, detector.data(), detector.size()) == 0;
    if (same) return new DetectorEngine;
    return new Engine;
  }
};

}  // namespace

#define STAND_IN_EXPORT extern "C" __attribute__((visibility("default")))

STAND_IN_EXPORT void* createInferRuntime_INTERNAL(void* log, std::int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) return nullptr;
  logger = static_cast<nvinfer1::ILogger*>(log);
  state.host_code = false;
  return static_cast<nvinfer1::IRuntime*>(new Runtime);
}

STAND_IN_EXPORT std::int32_t getInferLibVersion() noexcept {
#ifdef STAND_IN_RELEASE
  return STAND_IN_RELEASE;
#else
  return NV_TENSORRT_VERSION;
#endif
}

STAND_IN_EXPORT StandInTensorRt* stand_in_tensorrt() { return &state; }
