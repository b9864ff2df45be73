// CUDA for the TensorRT backends: devices, and RAII for memory, streams and graphs.
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
#include "../text.hpp"

namespace elir::core {

inline std::string error_message(const char* call, cudaError_t error) {
  return text(call, " failed with ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

inline void check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  // Clears the thread's last error, which the next call would report otherwise.
  static_cast<void>(cudaGetLastError());
  throw unavailable_error(error_message(call, error));
}

// Makes `device` the thread's current one, and restores the previous one at the end.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;  // setting it would initialise CUDA there
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

template <auto Release>
struct Deleter {
  template <typename Object>
  void operator()(Object* object) const {
    static_cast<void>(Release(object));
  }
};
template <typename Handle, auto Release>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Deleter<Release>>;

using DeviceMemory = Owned<void*, cudaFree>;
using PinnedMemory = Owned<void*, cudaFreeHost>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline DeviceMemory device_memory(std::size_t bytes) {
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
  return DeviceMemory(data);
}

// Page-locked, so that copies to and from the device avoid the driver's buffers.
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

// Compute capability, such as "sm86".
inline std::string compute_capability(int device) {
  int major = 0;
  int minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
             "cudaDeviceGetAttribute");
  return text("sm", major, minor);
}

// Compute capabilities of all devices; empty without a driver.
inline std::vector<std::string> compute_capabilities() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return {};
  }
  std::vector<std::string> capabilities;
  for (int device = 0; device < count; ++device) {
    capabilities.push_back(compute_capability(device));
  }
  return capabilities;
}

// "12.2" for 12020.
inline std::string cuda_release(int number) { return text(number / 1000, ".", number % 1000 / 10); }

// Why there is no usable device; none: there is one.
inline std::optional<std::string> cuda_problem() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return std::nullopt;
  static_cast<void>(cudaGetLastError());
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    return "the CUDA driver finds no device: see nvidia-smi and CUDA_VISIBLE_DEVICES";
  }
  int driver = 0;  // 0: no driver
  int runtime = 0;
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  if (driver == 0) return "no CUDA driver (libcuda.so.1 is not found): install NVIDIA's driver";
  const std::string reason = error_message("cudaGetDeviceCount", error);
  if (error != cudaErrorInsufficientDriver) {
    return text("the CUDA driver does not start (", reason, "): see nvidia-smi");
  }
  return text(reason, ": the driver supports CUDA ", cuda_release(driver), ", libelir ", kVersion,
              " needs ", cuda_release(runtime), ": update the driver");
}

// Throws an unavailable error if there is no such device.
inline void check_device(int device) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (device >= 0 && device < count) return;
  throw unavailable_error("there is no CUDA device ", device, ": the driver finds ", count,
                          "; see nvidia-smi and CUDA_VISIBLE_DEVICES");
}

}  // namespace elir::core
