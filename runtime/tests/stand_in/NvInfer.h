// A stand-in for TensorRT 10.3.0: what src/backends/tensorrt.cpp uses of it. Every engine takes the
// bytes of a square of 32x32 pixels and adds 1 to them; tests say what fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <new>
#include <string>

namespace nvinfer1 {

class ILogger {
 public:
  enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual void log(Severity severity, const char* message) noexcept = 0;

 protected:
  ~ILogger() = default;
};

struct TensorRt {
  const char* refusal = nullptr;  // logged by what then fails; empty: without a word
  bool enqueue_fails = false;
  bool no_memory_in_capture = false;
  bool capturable = true;
  bool linear = true;
  bool on_device = true;
  bool host_code = false;  // whether the last engine was allowed to bring code
  int enqueued = 0;
  ILogger* logger = nullptr;
};
inline TensorRt tensorrt;

// Whether a call fails, which the log then tells why.
inline bool refused() {
  if (tensorrt.refusal == nullptr) return false;
  if (*tensorrt.refusal != '\0') {
    tensorrt.logger->log(ILogger::Severity::kERROR, tensorrt.refusal);
  }
  return true;
}

enum class DataType { kFLOAT, kHALF, kINT8, kUINT8 };
enum class TensorFormat { kLINEAR, kCHW32 };
enum class TensorLocation { kDEVICE, kHOST };
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };
struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};

class IExecutionContext {
 public:
  bool setTensorAddress(const char* name, void* data) {
    (std::string(name) == "image" ? input_ : output_) = static_cast<std::uint8_t*>(data);
    return true;
  }
  bool isStreamCapturable(cudaStream_t /*stream*/) { return tensorrt.capturable; }
  bool enqueueV3(cudaStream_t stream) {
    if (stream->capturing && tensorrt.no_memory_in_capture) throw std::bad_alloc();
    ++tensorrt.enqueued;
    if (tensorrt.enqueue_fails) return !refused();
    stream->add([in = input_, out = output_] {
      for (int i = 0; i < 32 * 32 * 3; ++i) out[i] = static_cast<std::uint8_t>(in[i] + 1);
    });
    return true;
  }

 private:
  std::uint8_t* input_ = nullptr;
  std::uint8_t* output_ = nullptr;
};

class ICudaEngine {
 public:
  std::int32_t getNbIOTensors() const { return 2; }
  const char* getIOTensorName(std::int32_t index) const {
    return index == 0 ? "image" : "restored";
  }
  TensorIOMode getTensorIOMode(const char* name) const {
    return std::string(name) == "image" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  Dims getTensorShape(const char* /*name*/) const { return {4, {1, 32, 32, 3}}; }
  DataType getTensorDataType(const char* /*name*/) const { return DataType::kUINT8; }
  TensorFormat getTensorFormat(const char* /*name*/) const {
    return tensorrt.linear ? TensorFormat::kLINEAR : TensorFormat::kCHW32;
  }
  TensorLocation getTensorLocation(const char* /*name*/) const {
    return tensorrt.on_device ? TensorLocation::kDEVICE : TensorLocation::kHOST;
  }
  IExecutionContext* createExecutionContext() {
    return refused() ? nullptr : new IExecutionContext;
  }
};

class IRuntime {
 public:
  void setEngineHostCodeAllowed(bool allowed) { tensorrt.host_code = allowed; }
  ICudaEngine* deserializeCudaEngine(const void* /*data*/, std::size_t /*size*/) {
    return refused() ? nullptr : new ICudaEngine;
  }
};

inline IRuntime* createInferRuntime(ILogger& logger) {
  tensorrt.logger = &logger;
  tensorrt.host_code = false;
  return new IRuntime;
}

}  // namespace nvinfer1

inline int getInferLibVersion() { return 100300; }
