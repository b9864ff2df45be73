// The library for NvInfer.h in this folder. Every engine adds 1, or 2 with STAND_IN_RTX, to the
// bytes of 32x32 pixels. STAND_IN_RELEASE changes the release.
#ifdef STAND_IN_RTX
#define nvinfer1 elir_nvinfer1_rtx  // as in the backend, for UndefinedBehaviorSanitizer
#endif
#include "NvInfer.h"

#include <new>
#include <string>

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

class Context final : public nvinfer1::IExecutionContext {
 public:
  bool setTensorAddress(const char* name, void* data) override {
    (std::string(name) == "image" ? input_ : output_) = static_cast<std::uint8_t*>(data);
    return true;
  }
#ifdef STAND_IN_RTX
  bool isStreamCapturable(cudaStream_t /*stream*/) override { return state.capturable; }
#endif
  bool enqueueV3(cudaStream_t stream) override {
    if (stream->capturing && state.no_memory_in_capture) throw std::bad_alloc();
    ++state.enqueued;
    if (state.enqueue_fails) return !refused();
    stream->add([in = input_, out = output_] {
      for (int i = 0; i < 32 * 32 * 3; ++i) out[i] = static_cast<std::uint8_t>(in[i] + kAdded);
    });
    return true;
  }

 private:
  std::uint8_t* input_ = nullptr;
  std::uint8_t* output_ = nullptr;
};

class Engine final : public nvinfer1::ICudaEngine {
 public:
#ifdef STAND_IN_RTX
  void* createRuntimeConfig() override { return nullptr; }
#endif
  std::int32_t getNbIOTensors() const override { return 2; }
  const char* getIOTensorName(std::int32_t index) const override {
    return index == 0 ? "image" : "restored";
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const override {
    return std::string(name) == "image" ? nvinfer1::TensorIOMode::kINPUT
                                        : nvinfer1::TensorIOMode::kOUTPUT;
  }
  nvinfer1::Dims getTensorShape(const char* /*name*/) const override { return {4, {1, 32, 32, 3}}; }
  nvinfer1::DataType getTensorDataType(const char* /*name*/) const override {
    return nvinfer1::DataType::kUINT8;
  }
  nvinfer1::TensorFormat getTensorFormat(const char* /*name*/) const override {
    return state.linear ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kCHW32;
  }
  nvinfer1::TensorLocation getTensorLocation(const char* /*name*/) const override {
    return state.on_device ? nvinfer1::TensorLocation::kDEVICE : nvinfer1::TensorLocation::kHOST;
  }
  nvinfer1::IExecutionContext* createExecutionContext() override {
    return refused() ? nullptr : new Context;
  }
};

class Runtime final : public nvinfer1::IRuntime {
 public:
#ifndef STAND_IN_RTX
  void setEngineHostCodeAllowed(bool allowed) override { state.host_code = allowed; }
#endif
  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* /*data*/,
                                               std::size_t /*size*/) override {
    return refused() ? nullptr : new Engine;
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
