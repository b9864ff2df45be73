// A stand-in for CUDA on the host, with what src/backends/tensorrt.cpp uses. Work is queued until
// its stream is synchronised; tests choose what fails.
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
  cudaErrorStreamCaptureInvalidated = 901
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

namespace stand_in {

struct ErrorText {
  const char* name;
  const char* description;
};
inline ErrorText text_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return {"cudaSuccess", "no error"};
    case cudaErrorInsufficientDriver:
      return {"cudaErrorInsufficientDriver", "CUDA driver version is insufficient"};
    case cudaErrorNoDevice:
      return {"cudaErrorNoDevice", "no CUDA-capable device is detected"};
    case cudaErrorIllegalAddress:
      return {"cudaErrorIllegalAddress", "an illegal memory access was encountered"};
    case cudaErrorStreamCaptureInvalidated:
      return {"cudaErrorStreamCaptureInvalidated", "operation failed"};
  }
  std::abort();
}

inline cudaError_t answer(int* place, int value) {
  *place = value;
  return cudaSuccess;
}

// Creates and destroys objects, and counts those alive.
template <typename Object>
cudaError_t create(Object** place, Object* object) {
  *place = object;
  ++cuda.objects;
  return cudaSuccess;
}
template <typename Object>
cudaError_t destroy(Object* object) {
  delete object;
  --cuda.objects;
  return cudaSuccess;
}

}  // namespace stand_in

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t error) { return stand_in::text_of(error).name; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return stand_in::text_of(error).description;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  return stand_in::answer(version, cuda.driver);
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return stand_in::answer(version, 13000); }
inline cudaError_t cudaGetDevice(int* device) { return stand_in::answer(device, cuda.current); }
inline cudaError_t cudaSetDevice(int device) { return stand_in::answer(&cuda.current, device); }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda.devices;
  return cuda.refusal;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  return stand_in::answer(value, attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 6);
}

inline cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  return stand_in::create(data, std::malloc(bytes));
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
  cuda.last_stream = new StandInStream;
  return stand_in::create(stream, cuda.last_stream);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return stand_in::destroy(stream); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (cuda.lost) return cudaErrorIllegalAddress;
  if (stream->capturing) return cudaErrorStreamCaptureInvalidated;
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
  if (cuda.capture_fails) return cudaErrorStreamCaptureInvalidated;
  return stand_in::create(graph, new StandInGraph{std::move(captured)});
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                                 unsigned long long /*flags*/) {
  return stand_in::create(exec, new StandInExec{*graph});
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& work : exec->work) stream->add(work);
  ++cuda.launches;
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return stand_in::destroy(graph); }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return stand_in::destroy(exec); }
