#include "onnx_rules.hpp"

#include <nlohmann/json.hpp>

#include "embedded.hpp"

namespace elir::core {
namespace {

using Json = nlohmann::json;

OnnxRules::Message message_of(const std::string& name, const Json& fields) {
  OnnxRules::Message made;
  made.name = name;
  for (const auto& [key, values] : fields.items()) {
    const std::uint64_t number = std::stoull(key);
    const std::string called = values[0];
    const std::string holds = values[1];
    if (holds == "never") {
      made.never[number] = called;
      continue;
    }
    const std::uint64_t wire = holds == "integer" ? OnnxRules::kVarint
                               : holds == "float" ? OnnxRules::kFixed32
                                                  : OnnxRules::kBytes;
    made.fields.push_back({called, number << 3U | wire, values.size() == 2});
  }
  return made;
}

OnnxRules read(const Json& json) {
  OnnxRules made;
  json["opsets"][0].get_to(made.first_opset);
  json["opsets"][1].get_to(made.last_opset);
  json["operators"].get_to(made.operators);
  for (const Json& number : json["attribute_types"]) {
    made.attribute_types.insert(number.get<std::uint64_t>());
  }
  for (const auto& [name, values] : json["element_types"].items()) {
    made.elements[values[0].get<std::uint64_t>()] = {name, values[1].get<std::uint64_t>()};
  }
  json["metadata"].get_to(made.metadata);
  json["most_fields"].get_to(made.most_fields);
  const auto of = [&](const char* name) { return message_of(name, json["messages"][name]); };
  made.model = of("ModelProto");
  made.opset = of("OperatorSetIdProto");
  made.entry = of("StringStringEntryProto");
  made.graph = of("GraphProto");
  made.node = of("NodeProto");
  made.attribute = of("AttributeProto");
  made.tensor = of("TensorProto");
  made.value = of("ValueInfoProto");
  made.type = of("TypeProto");
  made.tensor_type = of("TypeProto.Tensor");
  made.shape = of("TensorShapeProto");
  made.side = of("TensorShapeProto.Dimension");
  return made;
}

}  // namespace

const OnnxRules& onnx_rules() {
  static const OnnxRules rules = read(Json::parse(kOnnxRules));
  return rules;
}

}  // namespace elir::core
