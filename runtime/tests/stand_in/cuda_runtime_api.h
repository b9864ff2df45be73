// A stand-in for CUDA: what src/backends/tensorrt.cpp uses of it, on the host. Work waits in its
// stream until that is synchronised, and tests say what fails.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalAddress = 700,
  cudaErrorCapture = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
constexpr unsigned cudaHostAllocDefault = 0;
constexpr unsigned cudaStreamNonBlocking = 1;

using Work = std::vector<std::function<void()>>;
struct StandInGraph {
  Work work;
};
struct StandInStream {
  Work queued;
  Work captured;
  bool capturing = false;

  void add(std::function<void()> work) {
    (capturing ? captured : queued).push_back(std::move(work));
  }
};
using cudaStream_t = StandInStream*;
using cudaGraph_t = StandInGraph*;
struct StandInExec : StandInGraph {};
using cudaGraphExec_t = StandInExec*;

struct Cuda {
  int driver = 13000;
  cudaError_t refusal = cudaSuccess;  // of the first call, as without a driver
  int devices = 1;                    // of compute capability 8.6
  int current = 0;
  int objects = 0;  // memory, streams and graphs that live
  int launches = 0;
  bool lost = false;           // every wait fails
  bool capture_fails = false;  // at its end
  cudaStream_t last_stream = nullptr;
};
inline Cuda cuda;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaErrorStreamCaptureInvalidated";
  }
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorIllegalAddress       ? "an illegal memory access was encountered"
         : error == cudaErrorInsufficientDriver ? "CUDA driver version is insufficient"
                                                : "operation failed";
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = cuda.driver;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = cuda.current;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  cuda.current = device;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda.devices;
  return cuda.refusal;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 6;
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  ++cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  --cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned /*flags*/) {
  return cudaMalloc(data, bytes);
}
inline cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  stream->add([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  cuda.last_stream = *stream = new StandInStream;
  ++cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  --cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (cuda.lost) return cudaErrorIllegalAddress;
  if (stream->capturing) return cudaErrorCapture;
  for (const auto& work : std::exchange(stream->queued, {})) work();
  return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode /*mode*/) {
  stream->capturing = true;
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  Work captured = std::exchange(stream->captured, {});
  if (cuda.capture_fails) return cudaErrorCapture;
  *graph = new StandInGraph{std::move(captured)};
  ++cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                                 unsigned long long /*flags*/) {
  *exec = new StandInExec{*graph};
  ++cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& work : exec->work) stream->add(work);
  ++cuda.launches;
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  --cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  --cuda.objects;
  return cudaSuccess;
}
