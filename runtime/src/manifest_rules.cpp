#include "manifest_rules.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "error.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

// Landmarks of an aligned face lie within this many of its square's sides, and span a part of one.
constexpr int kTemplateSides = 16;

void check_template(const json& points, double size) {
  bool spread = false;
  for (const std::size_t axis : {std::size_t{0}, std::size_t{1}}) {
    double least = kTemplateSides * size;
    double most = -least;
    for (const json& point : points) {
      const double value = point[axis];
      if (std::fabs(value) > kTemplateSides * size) {
        throw bundle_error("/detector/template has a point more than ", kTemplateSides,
                           " times template_size away");
      }
      least = std::min(least, value);
      most = std::max(most, value);
    }
    spread = spread || kTemplateSides * (most - least) >= size;
  }
  if (spread) return;
  throw bundle_error("/detector/template spans less than 1/", kTemplateSides,
                     " of template_size: not a face");
}

}  // namespace

void check_artifacts(const std::string& name, const json& artifacts) {
  std::set<json> keys;
  for (const json& artifact : artifacts) {
    json key = json::array({artifact["kind"], artifact["precision"], artifact["target"]});
    if (keys.insert(std::move(key)).second) continue;
    throw bundle_error(name, " has two ", artifact["kind"].dump(), " files of ",
                       artifact["precision"].dump(), " for the target ", artifact["target"].dump());
  }
}

void check_detector(const json& detector) {
  const json& artifacts = detector["artifacts"];
  check_artifacts("the face detector", artifacts);
  const auto is_graph = [](const json& each) { return each["kind"] == "onnx"; };
  const auto graphs = std::count_if(artifacts.begin(), artifacts.end(), is_graph);
  const auto graph = std::find_if(artifacts.begin(), artifacts.end(), is_graph);
  if (graphs != 1 || !(*graph)["target"].is_null()) {
    throw bundle_error("the face detector has ", graphs, " ONNX files, expected 1, for any device");
  }
  if (detector["multiple"] > detector["long_side"]) {
    throw bundle_error("/detector/long_side is ", detector["long_side"].dump(),
                       ", expected at least ", detector["multiple"].dump(),
                       ", the multiple of its input's sides");
  }
  check_template(detector["template"], detector["template_size"]);
}

}  // namespace elir::core
