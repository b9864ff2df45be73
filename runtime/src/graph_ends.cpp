// The inputs and outputs of graphs, by the manifest and as a library reports them.
#include <algorithm>

#include "error.hpp"
#include "manifest.hpp"
#include "text.hpp"

namespace elir::core {

std::array<std::int64_t, 4> TensorSpec::sides(const Shape& shape) const {
  const auto side = [&](std::int64_t pixels) { return pixels < 0 ? pixels : pixels / stride; };
  const std::int64_t height = side(shape.padded_height);
  const std::int64_t width = side(shape.padded_width);
  if (layout == Layout::nhwc) return {shape.batch, height, width, channels};
  return {shape.batch, channels, height, width};
}

std::size_t TensorSpec::bytes(const Shape& shape) const {
  const auto [a, b, c, d] = sides(shape);
  return static_cast<std::size_t>(a * b * c * d) * (dtype == Dtype::uint8 ? 1 : 4);
}

End TensorSpec::end(const Shape& shape) const {
  const auto all = sides(shape);
  return {name, type_name(dtype), {all.begin(), all.end()}};
}

GraphEnds Stage::ends(const Shape& shape) const {
  GraphEnds ends{{input.end(shape)}, {output.end(shape)}};
  if (noise) ends.inputs.push_back(noise->end(shape));
  return ends;
}

std::string End::describe() const {
  std::vector<std::string> numbers;
  for (const std::int64_t side : sides) {
    if (numbers.size() < 8) numbers.push_back(side < 0 ? "?" : std::to_string(side));
  }
  return text(printable(name), ": ", dtype, " ", joined(numbers, "x"));
}

void check_ends(const std::string& subject, const GraphEnds& actual, const GraphEnds& expected) {
  const auto same = [](const End& a, const End& b) {
    return a.name == b.name && a.dtype == b.dtype && a.sides == b.sides;
  };
  const auto describe = [](const std::vector<End>& ends) {
    std::vector<std::string> first;
    for (const End& end : ends) {
      if (first.size() < 4) first.push_back(end.describe());
    }
    return first.empty() ? "nothing" : joined(first, ", ");
  };
  const auto check = [&](const char* what, const auto& a, const auto& b) {
    if (std::equal(a.begin(), a.end(), b.begin(), b.end(), same)) return;
    throw bundle_error(subject, what, " is ", describe(a), ", the manifest says ", describe(b),
                       ": files of two bundles were mixed, copy the bundle again");
  };
  check(" input", actual.inputs, expected.inputs);
  check(" output", actual.outputs, expected.outputs);
}

}  // namespace elir::core
