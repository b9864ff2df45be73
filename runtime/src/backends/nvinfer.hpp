// TensorRT or, with ELIR_TENSORRT_RTX, TensorRT-RTX: the header, the differences between the two,
// and the library, which is opened at run time.
#pragma once

#ifdef ELIR_TENSORRT_RTX
// Both use the namespace nvinfer1. The linker would merge their inline functions, although their
// virtual tables differ.
#define nvinfer1 elir_nvinfer1_rtx
#endif

#include <NvInfer.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../error.hpp"
#include "../shared_library.hpp"
#include "../text.hpp"
#include "engines.hpp"

namespace elir::core {
namespace {

#ifdef ELIR_TENSORRT_RTX
constexpr const char* kName = "tensorrt-rtx";
constexpr const char* kFile = "libtensorrt_rtx.so.";  // followed by the major version
constexpr bool kVersionCompatibility = false;         // an engine runs under one release only
#else
constexpr const char* kName = "tensorrt";
constexpr const char* kFile = "libnvinfer.so.";
constexpr bool kVersionCompatibility = true;
#endif

#ifdef TRT_MAJOR_RTX
constexpr int kMajor = TRT_MAJOR_RTX;
#else
constexpr int kMajor = NV_TENSORRT_MAJOR;
#endif

// The exported functions. Virtual functions are the same within a major version.
struct Library {
  decltype(&createInferRuntime_INTERNAL) create_runtime;
  Release release;
};

Library open_library() {
  try {
    const SharedLibrary file(text(kFile, kMajor));
    const auto version = file.function<decltype(&getInferLibVersion)>("getInferLibVersion");
    return {file.function<decltype(&createInferRuntime_INTERNAL)>("createInferRuntime_INTERNAL"),
            release_of(version())};
  } catch (const std::runtime_error& error) {
    throw unavailable_error(kName, " cannot be loaded (", error.what(),
                            "): install it, or name its folder in LD_LIBRARY_PATH");
  }
}

// Name and release, such as "tensorrt 10.3.0".
std::string versioned_name(const Library& library) {
  const Release& release = library.release;
  return text(kName, " ", release[0], ".", release[1], ".", release[2]);
}

// The library. Throws an unavailable error, at every call, if it cannot be used.
const Library& library() {
  static const Library library = open_library();
  if (library.release[0] == kMajor) return library;
  throw unavailable_error(versioned_name(library), " is installed, expected release ", kMajor);
}

// The installed library, for messages.
std::string installed() { return versioned_name(library()); }

// Collects the errors that TensorRT logs when a call fails.
class EngineLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      if (lines_.size() == kMaxLines) lines_.erase(lines_.begin());
      lines_.emplace_back(message);
    } catch (...) {  // out of memory: this message is lost
    }
  }

  // Returns and removes the messages.
  std::vector<std::string> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(lines_, {});
  }

 private:
  static constexpr std::size_t kMaxLines = 10;

  std::mutex mutex_;
  std::vector<std::string> lines_;
};

// One for the process, since TensorRT keeps using the first logger.
EngineLog& engine_log() {
  static auto* const log = new EngineLog;
  return *log;
}

std::vector<std::int64_t> sides_of(const nvinfer1::Dims& shape) {
  return {shape.d, shape.d + std::max(shape.nbDims, 0)};
}

// An execution context for whose working memory the caller provides.
nvinfer1::IExecutionContext* create_context(nvinfer1::ICudaEngine& engine) {
#if NV_TENSORRT_MAJOR == 8
  return engine.createExecutionContextWithoutDeviceMemory();
#else
  return engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
#endif
}

// Bytes of working memory that suffice for every shape.
std::size_t working_bytes(const nvinfer1::ICudaEngine& engine) {
#if NV_TENSORRT_MAJOR == 8
  return engine.getDeviceMemorySize();
#else
  return static_cast<std::size_t>(engine.getDeviceMemorySizeV2());
#endif
}

void set_working_memory(nvinfer1::IExecutionContext& context, void* memory, std::size_t bytes) {
#if NV_TENSORRT_MAJOR == 8
  static_cast<void>(bytes);
  context.setDeviceMemory(memory);
#else
  context.setDeviceMemoryV2(memory, static_cast<std::int64_t>(bytes));
#endif
}

}  // namespace
}  // namespace elir::core
