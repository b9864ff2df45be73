// Writes small ONNX files, valid or not, field by field in the Protocol Buffers format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace elir::test {

inline std::string varint(std::uint64_t value) {
  std::string message;
  for (; value >= 128; value /= 128) message += static_cast<char>(value % 128 + 128);
  return message + static_cast<char>(value);
}

inline std::string number(std::uint64_t field, std::uint64_t value) {
  return varint(field << 3U) + varint(value);
}

inline std::string bytes(std::uint64_t field, const std::string& content) {
  return varint(field << 3U | 2U) + varint(content.size()) + content;
}

constexpr std::uint64_t kOnnxFloat = 1;
constexpr std::uint64_t kOnnxUint8 = 2;

// A ValueInfoProto; sides of 0 are left open.
inline std::string onnx_value(const std::string& name, std::uint64_t type,
                              const std::vector<std::uint64_t>& dims) {
  std::string shape;
  for (const std::uint64_t side : dims) shape += bytes(1, side == 0 ? "" : number(1, side));
  return bytes(1, name) + bytes(2, bytes(1, number(1, type) + bytes(2, shape)));
}

// A NodeProto; `more` are its other fields.
inline std::string onnx_node(const std::string& op, const std::vector<std::string>& inputs,
                             const std::string& output, const std::string& more = "") {
  std::string message;
  for (const std::string& input : inputs) message += bytes(1, input);
  return message + bytes(2, output) + bytes(4, op) + more;
}

// A TensorProto; `more` are its other fields.
inline std::string onnx_tensor(const std::string& name, std::uint64_t type,
                               const std::vector<std::uint64_t>& dims, const std::string& raw,
                               const std::string& more = "") {
  std::string message;
  for (const std::uint64_t side : dims) message += number(1, side);
  return message + number(2, type) + bytes(8, name) + bytes(9, raw) + more;
}

// A GraphProto; inputs and output are ValueInfoProtos.
struct OnnxGraph {
  std::vector<std::string> nodes;
  std::vector<std::string> tensors;
  std::vector<std::string> inputs;
  std::string output;

  std::string content() const {
    std::string message;
    for (const std::string& node : nodes) message += bytes(1, node);
    message += bytes(2, "g");
    for (const std::string& tensor : tensors) message += bytes(5, tensor);
    for (const std::string& input : inputs) message += bytes(11, input);
    return message + bytes(12, output);
  }
};

// A ModelProto.
inline std::string onnx_model(const std::string& graph, const std::string& more = "") {
  return number(1, 8) + bytes(7, graph) + bytes(8, bytes(1, "") + number(2, 17)) + more;
}

}  // namespace elir::test
