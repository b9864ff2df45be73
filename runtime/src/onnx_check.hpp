// Checks that an ONNX file contains only what elir-export writes, before a library loads it. The
// rules are elir_deploy/runtime/onnx_rules.json; the Python runtime's onnx_check.py has the
// reasons.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

#include "manifest.hpp"

namespace elir::core {

// Throws a bundle error if the content is damaged or not what elir-export writes, or if its inputs
// and outputs are not `expected` (none: not compared). Does not read the values of weights.
void check_onnx(std::string_view content, const std::optional<GraphEnds>& expected);

// The same for a file; the message begins with its path.
void check_onnx_file(const std::filesystem::path& path, const std::optional<GraphEnds>& expected);

}  // namespace elir::core
