// TensorRT, or with ELIR_TENSORRT_RTX TensorRT-RTX: its header, what differs between them, and the
// library, which is opened when it is needed.
#pragma once

#ifdef ELIR_TENSORRT_RTX
// Both have the namespace nvinfer1. In one library the linker would merge the inline functions of
// the two, although their tables of virtual functions differ.
#define nvinfer1 elir_nvinfer1_rtx
#endif

#include <NvInfer.h>

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
constexpr const char* kFile = "libtensorrt_rtx.so.";  // and the major version
constexpr bool kLaterReleases = false;                // its engines fit one release
#else
constexpr const char* kName = "tensorrt";
constexpr const char* kFile = "libnvinfer.so.";
constexpr bool kLaterReleases = true;
#endif

#ifdef TRT_MAJOR_RTX
constexpr int kMajor = TRT_MAJOR_RTX;
#else
constexpr int kMajor = NV_TENSORRT_MAJOR;
#endif

// What the library shows beside virtual functions, which are the same within a major version.
struct Library {
  decltype(&createInferRuntime_INTERNAL) create_runtime;
  Release release;
};

Library opened() {
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

// Such as "tensorrt 10.3.0".
std::string versioned(const Library& library) {
  const Release& release = library.release;
  return text(kName, " ", release[0], ".", release[1], ".", release[2]);
}

// Throws an unavailable error, at every call, where it is not there.
const Library& vendor() {
  static const Library made = opened();
  if (made.release[0] == kMajor) return made;
  throw unavailable_error(versioned(made), " is installed, expected release ", kMajor);
}

std::string library() { return versioned(vendor()); }

// TensorRT says in its log what is wrong, and gives null.
class EngineLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      if (lines_.size() == kLines) lines_.erase(lines_.begin());
      lines_.emplace_back(message);
    } catch (...) {  // out of memory: a message less
    }
  }

  // What was said since the last time.
  std::vector<std::string> taken() {
    const std::lock_guard lock(mutex_);
    return std::exchange(lines_, {});
  }

 private:
  static constexpr std::size_t kLines = 10;

  std::mutex mutex_;
  std::vector<std::string> lines_;
};

// One for the process, since TensorRT keeps the first it was given.
EngineLog& engine_log() {
  static auto* const log = new EngineLog;
  return *log;
}

}  // namespace
}  // namespace elir::core
