// Whether an ONNX file is one that elir-export could have made, before a library loads it: by the
// list in elir_deploy/runtime/onnx_rules.json, as the Python runtime decides (onnx_check.py says
// why).
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "manifest.hpp"

namespace elir::core {

// Throws a bundle error: the content of the file is damaged, holds what elir-export never writes,
// or has other inputs and outputs than these. Of the weights nothing is read but their
// descriptions.
void check_onnx(std::string_view content, const std::vector<End>& inputs,
                const std::vector<End>& outputs);

// The same of a file, with whose path the message begins.
void check_onnx_file(const std::filesystem::path& path, const std::vector<End>& inputs,
                     const std::vector<End>& outputs);

}  // namespace elir::core
