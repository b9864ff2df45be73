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
#include "../text.hpp"

namespace elir::core {

inline std::string failed_call(const char* call, cudaError_t error) {
  return text(call, " failed with ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
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

template <auto GiveBack>
struct Deleter {
  template <typename Object>
  void operator()(Object* object) const {
    static_cast<void>(GiveBack(object));
  }
};
template <typename Handle, auto GiveBack>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Deleter<GiveBack>>;

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
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    return "the CUDA driver finds no device: see nvidia-smi and CUDA_VISIBLE_DEVICES";
  }
  int driver = 0;  // stays 0 where there is none
  int wanted = 0;
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_cuda(cudaRuntimeGetVersion(&wanted), "cudaRuntimeGetVersion");
  if (driver == 0) return "no CUDA driver (libcuda.so.1 is not found): install NVIDIA's driver";
  const std::string reason = failed_call("cudaGetDeviceCount", error);
  if (error != cudaErrorInsufficientDriver) {
    return text("the CUDA driver does not start (", reason, "): see nvidia-smi");
  }
  return text(reason, ": the driver serves CUDA ", cuda_release(driver), ", and libelir ", kVersion,
              " is made for ", cuda_release(wanted), ": update the driver");
}

// Where there is one.
inline void check_device(int device) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (device >= 0 && device < count) return;
  throw unavailable_error("there is no CUDA device ", device, ": the driver finds ", count,
                          "; see nvidia-smi and CUDA_VISIBLE_DEVICES");
}

}  // namespace elir::core
