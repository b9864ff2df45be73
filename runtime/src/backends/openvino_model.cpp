#include "openvino_model.hpp"

#include <algorithm>
#include <openvino/frontend/manager.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <regex>

#include "../text.hpp"

namespace elir::core {
namespace {

ov::frontend::FrontEndManager& frontends() {
  static auto* instance = new ov::frontend::FrontEndManager;
  return *instance;
}

// The constant at an input, before conversions to other types; null if it is not a constant.
std::shared_ptr<ov::op::v0::Constant> constant(const ov::Node& node, std::size_t port) {
  std::shared_ptr<ov::Node> source = node.get_input_node_shared_ptr(port);
  while (std::string(source->get_type_name()) == "Convert") {
    source = source->get_input_node_shared_ptr(0);
  }
  return ov::as_type_ptr<ov::op::v0::Constant>(source);
}

// `values` times a scale, as in NumPy: rounded to the wider of the two types.
std::shared_ptr<ov::op::v0::Constant> multiply(const ov::op::v0::Constant& values,
                                               const ov::op::v0::Constant& scale) {
  std::vector<float> products = values.cast_vector<float>();
  for (float& value : products) value *= scale.cast_vector<float>().front();
  const bool half =
      values.get_element_type() == ov::element::f16 && scale.get_element_type() == ov::element::f16;
  const bool deeper = scale.get_shape().size() > values.get_shape().size();  // 1 or 1x1 to none
  return ov::op::v0::Constant::create(
      half ? ov::element::f16 : ov::element::f32,
      deeper && products.size() == 1 ? scale.get_shape() : values.get_shape(), products);
}

// The FakeQuantize of a Q/DQ pair that ends in `last`; null if there is no such pair.
std::shared_ptr<ov::op::v0::FakeQuantize> quantizer_before(const ov::Node& last,
                                                           const ov::Node** subtraction) {
  const ov::Node* node = &last;
  for (const char* type : {"Multiply", "Subtract", "Convert", "Convert"}) {
    if (std::string(node->get_type_name()) != type) return nullptr;
    if (std::string(type) == "Subtract") *subtraction = node;
    node = node->get_input_node_ptr(0);
  }
  return ov::as_type_ptr<ov::op::v0::FakeQuantize>(
      std::const_pointer_cast<ov::Node>(node->shared_from_this()));
}

// Replaces each Q/DQ pair by one FakeQuantize, which computes the same.
//
// Without this, OpenVINO 2026.4 loses the scales of pairs in front of concatenations on processors
// without AMX, which ruins the picture.
void join_quantizers(ov::Model& model) {
  for (const auto& node : model.get_ordered_ops()) {
    const ov::Node* subtraction = nullptr;
    const auto quantizer = quantizer_before(*node, &subtraction);
    if (!quantizer) continue;
    const auto scale = constant(*node, 1);
    const auto zero = constant(*subtraction, 1);
    const auto low = constant(*quantizer, 3);
    const auto high = constant(*quantizer, 4);
    if (!scale || !zero || !low || !high) continue;
    const std::vector<float> zeros = zero->cast_vector<float>();
    const bool zero_point = std::any_of(zeros.begin(), zeros.end(), [](float z) { return z != 0; });
    // Scales per channel or a zero point: not from elir-export.
    if (zero_point || ov::shape_size(scale->get_shape()) != 1) continue;
    const auto merged = std::make_shared<ov::op::v0::FakeQuantize>(
        quantizer->input_value(0), quantizer->input_value(1), quantizer->input_value(2),
        multiply(*low, *scale), multiply(*high, *scale), quantizer->get_levels());
    node->output(0).replace(merged->output(0));
  }
}

}  // namespace

ov::Core& core() {
  static auto* instance = new ov::Core;
  return *instance;
}

std::vector<End> read_ends(const std::vector<ov::Output<const ov::Node>>& ports,
                           const std::vector<End>& expected) {
  std::vector<End> ends;
  for (const auto& port : ports) {
    // An operator that OpenVINO removes leaves its name to its input.
    const auto& names = port.get_names();
    const auto type = port.get_element_type();
    const auto named = std::find_if(expected.begin(), expected.end(),
                                    [&](const End& end) { return names.count(end.name) > 0; });
    ends.push_back(
        {named != expected.end() ? named->name : joined({names.begin(), names.end()}, "/"),
         type == ov::element::u8    ? "uint8"
         : type == ov::element::f32 ? "float32"
                                    : "another type",
         {}});
    for (const ov::Dimension& side : port.get_partial_shape())
      ends.back().sides.push_back(side.is_static() ? side.get_length() : -1);
  }
  return ends;
}

ov::Tensor tensor(const TensorSpec& spec, const Shape& shape, void* data) {
  const auto sides = spec.sides(shape);
  return {spec.dtype == Dtype::uint8 ? ov::element::u8 : ov::element::f32,
          ov::Shape(sides.begin(), sides.end()), data};
}

std::string one_line_of(const std::exception& error) {
  // "Exception from src/inference/src/cpp/core.cpp:84:", once per caller.
  static const std::regex noise(
      R"(Exception from \S{1,300}:\d{1,9}:|Check '[^\n]{0,500}' failed at \S{1,300}:\d{1,9}:)");
  const std::string text = std::string(error.what()).substr(0, 4000);
  return one_line(std::regex_replace(text, noise, ""));
}

// `Core::read_model` would try a damaged file with the readers of all formats, which print.
std::shared_ptr<ov::Model> read_model(const std::filesystem::path& path) {
  return call_openvino(
      [&] {
        const auto reader = frontends().load_by_framework("onnx");
        const auto model = reader->convert(reader->load(path.string()));
        join_quantizers(*model);
        return model;
      },
      [&](const std::string& reason) {
        return bundle_error(path.string(), " cannot be loaded by openvino ",
                            ov::get_openvino_version().buildNumber, ": ", reason);
      });
}

}  // namespace elir::core
