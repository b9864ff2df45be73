// Images in device memory: whether they are where they are said to be, and copies between them and
// the tensors of a network. Nothing but copies runs on the device, so that no kernel of our own has
// to be built for it.
#pragma once

#include <elir/elir.h>

#include "../tiling.hpp"
#include "cuda.hpp"

namespace elir::core {

using Event = Owned<cudaEvent_t, cudaEventDestroy>;

inline Event new_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return Event(event);
}

// Pixels in device memory, of an image whose rows are stored top down.
inline Pixels device_pixels(const elir_image& image) {
  const auto width = static_cast<std::size_t>(image.width);
  const auto row = static_cast<std::ptrdiff_t>(kChannels * width);
  return {static_cast<std::uint8_t*>(image.data), image.stride == 0 ? row : image.stride, width,
          static_cast<std::size_t>(image.height)};
}

// What is wrong with the memory of a byte, and what to do; empty: it is the memory of `device`,
// which is current.
inline std::string wrong_place(const void* byte, int device) {
  cudaPointerAttributes place{};
  const cudaError_t error = cudaPointerGetAttributes(&place, byte);
  if (error != cudaErrorInvalidValue) check_cuda(error, "cudaPointerGetAttributes");
  static_cast<void>(cudaGetLastError());
  if (error != cudaSuccess || place.type == cudaMemoryTypeUnregistered) {
    return text("is not in CUDA memory, expected an address of CUDA device ", device,
                ": set memory to ELIR_MEMORY_HOST for host memory");
  }
  if (place.type == cudaMemoryTypeHost) {
    return text("is in page-locked host memory, expected CUDA device ", device,
                ": set memory to ELIR_MEMORY_HOST");
  }
  if (place.type == cudaMemoryTypeDevice && place.device != device) {
    return text("is on CUDA device ", place.device, ", expected device ", device,
                ", the restorer's: copy it there, or set elir_params.device");
  }
  return {};
}

// Throws an image error unless the first and the last byte of an image are in the memory of
// `device`: a wrong stride or size is found where it leads out of it.
inline void check_places(const elir_image& image, const char* what, int device) {
  const CurrentDevice current(device);
  const Pixels pixels = device_pixels(image);
  const std::string first = wrong_place(pixels.data, device);
  if (!first.empty()) throw image_error("the data of the ", what, " ", first);
  const std::uint8_t* const row = pixels.row(pixels.height - 1);
  const std::string last = wrong_place(row + kChannels * pixels.width - 1, device);
  if (last.empty()) return;
  throw image_error("the last byte of the ", what, " (", image.width, "x", image.height,
                    ", stride ", pixels.stride, ") ", last);
}

// Lets `stream` wait for the work that is queued in the caller's stream of an image.
inline void wait_for_caller(cudaStream_t stream, const Event& event, const elir_image& image) {
  auto* const caller = static_cast<cudaStream_t>(image.stream);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(caller, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw image_error(
        "the image's stream is being captured as a CUDA graph, expected one that executes its "
        "work: restore before or after the capture");
  }
  const cudaError_t error = cudaEventRecord(event.get(), caller);
  if (error == cudaErrorInvalidResourceHandle) {
    static_cast<void>(cudaGetLastError());
    throw image_error("the image's stream is of another CUDA device, expected the restorer's");
  }
  check_cuda(error, "cudaEventRecord");
  check_cuda(cudaStreamWaitEvent(stream, event.get(), 0), "cudaStreamWaitEvent");
}

// Queues a copy between pixels in device memory, of the size of `from`.
inline void queue_copy(ConstPixels from, Pixels to, cudaStream_t stream) {
  check_cuda(cudaMemcpy2DAsync(to.data, static_cast<std::size_t>(to.stride), from.data,
                               static_cast<std::size_t>(from.stride), kChannels * from.width,
                               from.height, cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpy2DAsync");
}

// Queues copies that continue `width` x `height` pixels in `image` by mirroring, as mirror() does.
inline void queue_mirror(Pixels image, std::size_t width, std::size_t height, cudaStream_t stream) {
  for (std::size_t x = width; x < image.width; ++x) {
    queue_copy(image.part(mirrored(x, width), 0, 1, height), image.part(x, 0, 1, height), stream);
  }
  for (std::size_t y = height; y < image.height; ++y) {
    queue_copy(image.part(0, mirrored(y, height), image.width, 1), image.part(0, y, image.width, 1),
               stream);
  }
}

}  // namespace elir::core
