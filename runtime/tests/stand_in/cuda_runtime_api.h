// A stand-in for CUDA on the host, with what src/backends/tensorrt.cpp uses. Work is queued until
// its stream is synchronised, or a stream that waits for it; tests choose what fails. Copies are
// counted by direction, when they are done, and checked to be of the memory that they name.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <utility>
#include <vector>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalAddress = 700,
  cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
constexpr unsigned cudaHostAllocDefault = 0;
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;

using Work = std::vector<std::function<void()>>;
struct StandInGraph {
  Work work;
};
struct StandInStream {
  Work queued;
  std::size_t done = 0;  // of all that was ever queued
  Work captured;
  bool capturing = false;
  int device = 0;

  void add(std::function<void()> work) {
    (capturing ? captured : queued).push_back(std::move(work));
  }
  std::size_t accepted() const { return done + queued.size(); }
  // Does the work up to a number of pieces.
  void finish(std::size_t count) {
    while (done < count) {
      const auto work = std::move(queued.front());
      queued.erase(queued.begin());
      ++done;
      work();
    }
  }
};
using cudaStream_t = StandInStream*;
struct StandInEvent {
  int device = 0;
  cudaStream_t stream = nullptr;
  std::size_t count = 0;  // pieces of work that were in the stream
};
using cudaEvent_t = StandInEvent*;
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
  StandInStream legacy_stream;

  struct Memory {
    std::size_t bytes;
    cudaPointerAttributes attributes;
  };
  std::map<std::uintptr_t, Memory> memory;
  int copies[4] = {};    // by cudaMemcpyKind
  int wrong_copies = 0;  // from or to memory of another kind
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
    case cudaErrorInvalidValue:
      return {"cudaErrorInvalidValue", "invalid argument"};
    case cudaErrorInvalidResourceHandle:
      return {"cudaErrorInvalidResourceHandle", "invalid resource handle"};
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

inline cudaError_t allocate(void** data, std::size_t bytes, cudaMemoryType type) {
  *data = std::malloc(bytes);
  cuda.memory[reinterpret_cast<std::uintptr_t>(*data)] = {bytes, {type, cuda.current}};
  ++cuda.objects;
  return cudaSuccess;
}

inline cudaPointerAttributes attributes_of(const void* byte) {
  const auto address = reinterpret_cast<std::uintptr_t>(byte);
  auto next = cuda.memory.upper_bound(address);
  if (next == cuda.memory.begin()) return {cudaMemoryTypeUnregistered, -1};
  const auto& [begin, memory] = *--next;
  if (address >= begin + memory.bytes) return {cudaMemoryTypeUnregistered, -1};
  return memory.attributes;
}

inline bool on_device(const void* first, const void* last) {
  for (const void* byte : {first, last}) {
    const cudaMemoryType type = attributes_of(byte).type;
    if (type != cudaMemoryTypeDevice && type != cudaMemoryTypeManaged) return false;
  }
  return true;
}

inline StandInStream& stream_of(cudaStream_t stream) {
  return stream == nullptr ? cuda.legacy_stream : *stream;
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
  return stand_in::allocate(data, bytes, cudaMemoryTypeDevice);
}
inline cudaError_t cudaFree(void* data) {
  cuda.memory.erase(reinterpret_cast<std::uintptr_t>(data));
  std::free(data);
  --cuda.objects;
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned /*flags*/) {
  return stand_in::allocate(data, bytes, cudaMemoryTypeHost);
}
inline cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* byte) {
  *attributes = stand_in::attributes_of(byte);
  return cuda.lost ? cudaErrorIllegalAddress : cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                                     std::size_t from_pitch, std::size_t width, std::size_t height,
                                     cudaMemcpyKind kind, cudaStream_t stream) {
  if (to_pitch < width || from_pitch < width) return cudaErrorInvalidValue;
  stand_in::stream_of(stream).add([=] {
    const auto rows = [&](auto* first, std::size_t pitch) {
      return stand_in::on_device(first, first + (height - 1) * pitch + width - 1);
    };
    auto* const sink = static_cast<char*>(to);
    const auto* const source = static_cast<const char*>(from);
    if (rows(sink, to_pitch) != (kind != cudaMemcpyDeviceToHost) ||
        rows(source, from_pitch) != (kind != cudaMemcpyHostToDevice)) {
      ++cuda.wrong_copies;
      return;
    }
    ++cuda.copies[kind];
    for (std::size_t y = 0; y < height; ++y) {
      std::memcpy(sink + y * to_pitch, source + y * from_pitch, width);
    }
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                   cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  cuda.last_stream = new StandInStream;
  cuda.last_stream->device = cuda.current;
  return stand_in::create(stream, cuda.last_stream);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return stand_in::destroy(stream); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (cuda.lost) return cudaErrorIllegalAddress;
  StandInStream& found = stand_in::stream_of(stream);
  if (found.capturing) return cudaErrorStreamCaptureInvalidated;
  found.finish(found.accepted());
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  return stand_in::create(event, new StandInEvent{cuda.current});
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return stand_in::destroy(event); }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  StandInStream& found = stand_in::stream_of(stream);
  const int device = stream == nullptr ? cuda.current : found.device;
  if (device != event->device) return cudaErrorInvalidResourceHandle;
  event->stream = &found;
  event->count = found.accepted();
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  stand_in::stream_of(stream).add(
      [on = event->stream, count = event->count] { on->finish(count); });
  return cudaSuccess;
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode /*mode*/) {
  stream->capturing = true;
  return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stand_in::stream_of(stream).capturing ? cudaStreamCaptureStatusActive
                                                  : cudaStreamCaptureStatusNone;
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
