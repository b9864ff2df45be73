// Whether an ONNX file is one that elir-export could have made, before a library loads it: by the
// list in elir_deploy/runtime/onnx_rules.json, as the Python runtime decides (onnx_check.py says
// why).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace elir::core {

// An input or output of a graph.
struct End {
  std::string name;
  std::string dtype;                               // such as "uint8"
  std::vector<std::optional<std::uint64_t>> dims;  // none for a side that the graph leaves open
};

inline bool operator==(const End& a, const End& b) {
  return a.name == b.name && a.dtype == b.dtype && a.dims == b.dims;
}

// Throws a bundle error: the content of the file is damaged, holds what elir-export never writes,
// or has other inputs and outputs than these. Of the weights nothing is read but their
// descriptions.
void check_onnx(std::string_view content, const std::vector<End>& inputs,
                const std::vector<End>& outputs);

// The same of a file, with whose path the message begins.
void check_onnx_file(const std::filesystem::path& path, const std::vector<End>& inputs,
                     const std::vector<End>& outputs);

}  // namespace elir::core
