// The header of TensorRT, or with ELIR_TENSORRT_RTX of TensorRT-RTX, and what differs between them.
#pragma once

#ifdef ELIR_TENSORRT_RTX
// Both have the namespace nvinfer1. In one library the linker would merge the inline functions of
// the two, although their tables of virtual functions differ.
#define nvinfer1 elir_nvinfer1_rtx
#endif

#include <NvInfer.h>

#include <string>
#include <vector>

namespace elir::core {
namespace {

#ifdef ELIR_TENSORRT_RTX
constexpr const char* kName = "tensorrt-rtx";
constexpr const char* kFile = "libtensorrt_rtx.so.";  // and the major version
constexpr bool kLaterReleases = false;                // its engines fit one release
const std::vector<std::string> kPrecisions = {"fp16", "fp32", "int8"};
#else
constexpr const char* kName = "tensorrt";
constexpr const char* kFile = "libnvinfer.so.";
constexpr bool kLaterReleases = true;
const std::vector<std::string> kPrecisions = {"int8", "fp16", "fp32"};
#endif

#ifdef TRT_MAJOR_RTX
constexpr int kMajor = TRT_MAJOR_RTX;
#else
constexpr int kMajor = NV_TENSORRT_MAJOR;
#endif

}  // namespace
}  // namespace elir::core
