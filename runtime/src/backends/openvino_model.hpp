// Reading graphs with OpenVINO.
#pragma once

#include <filesystem>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>

#include "../backend.hpp"
#include "../error.hpp"

namespace elir::core {

// Version of the rewrites of a model before it is compiled; the same number as in Python, which
// uses the same compiled models.
constexpr int kRewriting = 1;

// OpenVINO's name of the processor.
constexpr const char* kCpu = "CPU";

// OpenVINO's core, one for the process and never destroyed: each sets a signal stack for the thread
// that creates it, and destroying two leaves a freed one in use.
ov::Core& core();

// The inputs or outputs of a model. One with several names gets an expected one if that is among
// them.
std::vector<End> read_ends(const std::vector<ov::Output<const ov::Node>>& ports,
                           const std::vector<End>& expected);

// A tensor in host memory.
ov::Tensor tensor(const TensorSpec& spec, const Shape& shape, void* data);

// Loads a bundle's face detector. Throws a bundle or an unavailable error.
std::unique_ptr<DetectorNetwork> open_openvino_detector(const Bundle& bundle,
                                                        const ov::AnyMap& config);

// An exception's message without places in OpenVINO's sources.
std::string one_line_of(const std::exception& error);

// Calls `body`; if OpenVINO fails in it, throws the Failure that `failure` creates of the reason.
template <typename Body, typename MakeFailure>
auto call_openvino(const Body& body, const MakeFailure& failure) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {  // neither the file's nor the device's fault
    throw;
  } catch (const std::exception& error) {
    check_memory(error.what());
    throw failure(one_line_of(error));
  }
}

// Reads an ONNX file into a model that can be compiled. Throws a bundle error.
std::shared_ptr<ov::Model> read_model(const std::filesystem::path& path);

}  // namespace elir::core
