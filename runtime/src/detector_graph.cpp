#include "detector_graph.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"

namespace elir::core {

const Detector& detector_of(const Bundle& bundle) {
  const auto& detector = bundle.manifest().detector;
  if (detector) return *detector;
  if (!bundle.manifest().faces) {
    throw bundle_error(bundle.path().string(), " has no face detector: it is of ",
                       bundle.manifest().task,
                       ", which restores the whole picture; use a bundle of faces, such as bfr");
  }
  throw bundle_error(bundle.path().string(),
                     " has no face detector: export it again with --detector centerface, or "
                     "restore aligned crops with elir_restore");
}

std::filesystem::path detector_file(const Bundle& bundle) {
  const auto& artifacts = detector_of(bundle).artifacts;
  const auto graph = std::find_if(artifacts.begin(), artifacts.end(), [](const Artifact& each) {
    return each.kind == "onnx" && !each.target;
  });
  if (graph != artifacts.end()) return bundle.checked_file(graph->file);
  throw bundle_error(bundle.path().string(),
                     ": its face detector has no ONNX file: export it again");
}

void check_detector_ends(const std::filesystem::path& path, const Detector& detector,
                         const GraphEnds& ends) {
  const End picture{detector.input, type_name(Dtype::float32), {1, 3, -1, -1}};
  const bool same = ends.inputs.size() == 1 && ends.inputs[0].name == picture.name &&
                    ends.inputs[0].dtype == picture.dtype && ends.inputs[0].sides == picture.sides;
  if (!same) {
    std::vector<std::string> inputs;
    for (const End& end : ends.inputs) {
      if (inputs.size() < 4) inputs.push_back(end.describe());
    }
    throw bundle_error(path.string(), ": the detector's input is ", joined(inputs, ", "),
                       ", expected ", picture.describe());
  }
  for (const auto& [name, meaning] : detector.outputs) {
    const std::string& output = name;
    if (std::any_of(ends.outputs.begin(), ends.outputs.end(), [&](const End& end) {
          return end.name == output && end.dtype == picture.dtype;
        })) {
      continue;
    }
    throw bundle_error(path.string(), ": the detector has no float32 output ", printable(name),
                       ": export the bundle again");
  }
}

}  // namespace elir::core
