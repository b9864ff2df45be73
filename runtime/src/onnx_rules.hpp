// What ONNX files of a bundle may contain: elir_deploy/runtime/onnx_rules.json. The format is
// described in the Python runtime's onnx_rules.py.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace elir::core {

struct OnnxRules {
  // Wire types of Protocol Buffers.
  static constexpr std::uint64_t kVarint = 0;
  static constexpr std::uint64_t kBytes = 2;
  static constexpr std::uint64_t kFixed32 = 5;

  struct Message;
  struct Field {
    std::string name;
    std::uint64_t tag;      // number and wire type
    bool once;              // not repeated
    const Message* inside;  // type of a message field; null: another field
  };
  struct Message {
    std::string name;
    std::vector<Field> fields;                       // allowed
    std::map<std::uint64_t, std::string> forbidden;  // names by number, for messages
  };
  struct Element {
    std::string name;
    std::uint64_t bytes;
  };

  std::uint64_t first_opset = 0;
  std::uint64_t last_opset = 0;
  std::set<std::string, std::less<>> operators;
  std::set<std::uint64_t> attribute_types;
  std::map<std::uint64_t, Element> elements;  // element types of tensors, by number
  std::string metadata;                       // prefix of its keys
  std::uint64_t most_fields = 0;              // in a file
  std::map<std::string, Message> messages;
};

// The embedded rules.
const OnnxRules& onnx_rules();

}  // namespace elir::core
