// What the ONNX files of a bundle may hold: elir_deploy/runtime/onnx_rules.json, as the Python
// runtime's onnx_rules.py explains it.
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
    std::uint64_t tag;      // what stands before it: its number and its wire type
    bool once;              // or it may be repeated
    const Message* inside;  // null where it is none
  };
  struct Message {
    std::string name;
    std::vector<Field> fields;                   // that it may hold
    std::map<std::uint64_t, std::string> never;  // others, by number, that are told by name
  };
  struct Element {
    std::string name;
    std::uint64_t bytes;
  };

  std::uint64_t first_opset = 0;
  std::uint64_t last_opset = 0;
  std::set<std::string, std::less<>> operators;
  std::set<std::uint64_t> attribute_types;
  std::map<std::uint64_t, Element> elements;  // of tensors, by the number of their type
  std::string metadata;                       // how its keys begin
  std::uint64_t most_fields = 0;              // of all messages together
  std::map<std::string, Message> messages;
};

// Read once from what is built in.
const OnnxRules& onnx_rules();

}  // namespace elir::core
