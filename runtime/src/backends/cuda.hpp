// What the TensorRT backends use of CUDA: memory, a stream and a graph, each given back by its
// owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "../embedded.hpp"
#include "../error.hpp"
#include "../messages.hpp"
#include "../text.hpp"

namespace elir::core {

inline std::string failed_call(const char* call, cudaError_t error) {
  return message(
      "cuda_failed",
      {{"call", call}, {"error", cudaGetErrorName(error)}, {"reason", cudaGetErrorString(error)}});
}

inline void check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  // The error stays CUDA's last one of this thread otherwise, and the next call would find it.
  static_cast<void>(cudaGetLastError());
  throw unavailable_error(failed_call(call, error));
}

// While it lives, `device` is this thread's current one; what was before is put back.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;  // setting it would start CUDA there
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = true;
  }
  ~CurrentDevice() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) static_cast<void>(cudaGetLastError());
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

struct FreeDevice {
  void operator()(void* data) const { static_cast<void>(cudaFree(data)); }
};
struct FreePinned {
  void operator()(void* data) const { static_cast<void>(cudaFreeHost(data)); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
};
struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { static_cast<void>(cudaGraphDestroy(graph)); }
};
struct DestroyExec {
  void operator()(cudaGraphExec_t exec) const { static_cast<void>(cudaGraphExecDestroy(exec)); }
};

using DeviceMemory = std::unique_ptr<void, FreeDevice>;
using PinnedMemory = std::unique_ptr<void, FreePinned>;
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyExec>;

inline DeviceMemory device_memory(std::size_t bytes) {
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
  return DeviceMemory(data);
}

// Page-locked, so that copies to and from the device need not go through the driver's own buffers.
inline PinnedMemory pinned_memory(std::size_t bytes) {
  void* data = nullptr;
  check_cuda(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  return PinnedMemory(data);
}

inline Stream new_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return Stream(stream);
}

// Such as "sm86".
inline std::string capability(int device) {
  int major = 0;
  int minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "cudaDeviceGetAttribute");
  return text("sm", major, minor);
}

// Of every device; none where there is no driver.
inline std::vector<std::string> capabilities() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return {};
  }
  std::vector<std::string> found;
  for (int device = 0; device < count; ++device) found.push_back(capability(device));
  return found;
}

// Such as "12.2" of 12020.
inline std::string cuda_release(int number) { return text(number / 1000, ".", number % 1000 / 10); }

// None if there is a device, else why not.
inline std::optional<std::string> missing_cuda_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return std::nullopt;
  static_cast<void>(cudaGetLastError());
  if (error == cudaSuccess || error == cudaErrorNoDevice) return message("cuda_no_device");
  int driver = 0;  // stays 0 where there is none
  int wanted = 0;
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_cuda(cudaRuntimeGetVersion(&wanted), "cudaRuntimeGetVersion");
  if (driver == 0) return message("cuda_no_driver");
  const std::string reason = failed_call("cudaGetDeviceCount", error);
  if (error != cudaErrorInsufficientDriver) {
    return message("cuda_not_started", {{"reason", reason}});
  }
  return message("cuda_driver_old", {{"reason", reason},
                                     {"driver", cuda_release(driver)},
                                     {"library", text("libelir ", kVersion)},
                                     {"wanted", cuda_release(wanted)}});
}

// Where there is one.
inline void check_device(int device) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (device >= 0 && device < count) return;
  throw unavailable_error(message("cuda_no_such_device", {{"device", device}, {"count", count}}));
}

}  // namespace elir::core
