#include "onnx_rules.hpp"

#include <nlohmann/json.hpp>

#include "embedded.hpp"

namespace elir::core {
namespace {

using Json = nlohmann::json;

void read_message(const std::string& name, const Json& fields, OnnxRules& rules) {
  OnnxRules::Message& message = rules.messages[name];
  message.name = name;
  for (const auto& [key, values] : fields.items()) {
    const std::uint64_t number = std::stoull(key);
    const std::string type = values[1];
    if (type == "never") {
      message.forbidden[number] = values[0];
      continue;
    }
    const bool plain = type == "integer" || type == "float" || type == "bytes";
    const std::uint64_t wire = type == "integer" ? OnnxRules::kVarint
                               : type == "float" ? OnnxRules::kFixed32
                                                 : OnnxRules::kBytes;
    message.fields.push_back({values[0], number << 3U | wire, values.size() == 2,
                              plain ? nullptr : &rules.messages[type]});
  }
}

OnnxRules read(const Json& json) {
  OnnxRules rules;
  json["opsets"][0].get_to(rules.first_opset);
  json["opsets"][1].get_to(rules.last_opset);
  json["operators"].get_to(rules.operators);
  for (const Json& number : json["attribute_types"]) {
    rules.attribute_types.insert(number.get<std::uint64_t>());
  }
  for (const auto& [name, values] : json["element_types"].items()) {
    rules.elements[values[0].get<std::uint64_t>()] = {name, values[1].get<std::uint64_t>()};
  }
  json["metadata"].get_to(rules.metadata);
  json["most_fields"].get_to(rules.most_fields);
  for (const auto& [name, fields] : json["messages"].items()) read_message(name, fields, rules);
  return rules;
}

}  // namespace

const OnnxRules& onnx_rules() {
  static const OnnxRules rules = read(Json::parse(kOnnxRules));
  return rules;
}

}  // namespace elir::core
