// Reading graphs with OpenVINO.
#pragma once

#include <filesystem>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>

#include "../error.hpp"

namespace elir::core {

// Version of the rewrites of a model before it is compiled; the same number as in Python, which
// uses the same compiled models.
constexpr int kRewriting = 1;

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
