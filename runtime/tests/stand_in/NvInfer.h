// A stand-in for the header of TensorRT 10.3.0 or, with STAND_IN_RTX, TensorRT-RTX 1.7.1, with what
// src/backends/tensorrt.cpp uses. As in the real ones, names are the same and virtual tables
// differ.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifdef STAND_IN_RTX
#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_VERSION 10701
#else
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_VERSION 100300
#endif

extern "C" void* createInferRuntime_INTERNAL(void* logger, std::int32_t version) noexcept;
extern "C" std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

class ILogger {
 public:
  enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual void log(Severity severity, const char* message) noexcept = 0;

 protected:
  ~ILogger() = default;
};

enum class DataType { kFLOAT, kHALF, kINT8, kUINT8 };
enum class TensorFormat { kLINEAR, kCHW32 };
enum class TensorLocation { kDEVICE, kHOST };
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };
struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};

enum class OptProfileSelector { kMIN, kOPT, kMAX };
enum class ExecutionContextAllocationStrategy { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };

class IExecutionContext {
 public:
#ifdef STAND_IN_RTX
  virtual bool isStreamCapturable(cudaStream_t stream) = 0;
#endif
  virtual ~IExecutionContext() = default;
  virtual bool setTensorAddress(const char* name, void* data) = 0;
  virtual bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) = 0;
  virtual bool setInputShape(const char* name, const Dims& dims) = 0;
  virtual Dims getTensorShape(const char* name) const = 0;
  virtual void setDeviceMemoryV2(void* memory, std::int64_t size) = 0;
  virtual bool enqueueV3(cudaStream_t stream) = 0;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() = default;
#ifdef STAND_IN_RTX
  virtual void* createRuntimeConfig() = 0;
#endif
  virtual std::int32_t getNbIOTensors() const = 0;
  virtual const char* getIOTensorName(std::int32_t index) const = 0;
  virtual TensorIOMode getTensorIOMode(const char* name) const = 0;
  virtual Dims getTensorShape(const char* name) const = 0;
  virtual DataType getTensorDataType(const char* name) const = 0;
  virtual TensorFormat getTensorFormat(const char* name) const = 0;
  virtual TensorLocation getTensorLocation(const char* name) const = 0;
  virtual std::int64_t getDeviceMemorySizeV2() const = 0;
  virtual std::int32_t getNbOptimizationProfiles() const = 0;
  virtual Dims getProfileShape(const char* name, std::int32_t profile,
                               OptProfileSelector select) const = 0;
  virtual IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy) = 0;
};

class IRuntime {
 public:
  virtual ~IRuntime() = default;
#ifndef STAND_IN_RTX
  virtual void setEngineHostCodeAllowed(bool allowed) = 0;
#endif
  virtual ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) = 0;
};

}  // namespace nvinfer1
