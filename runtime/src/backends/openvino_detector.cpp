// A bundle's face detector on OpenVINO.
#include "../detector_graph.hpp"
#include "openvino_model.hpp"

namespace elir::core {
namespace {

class OpenVinoDetector final : public DetectorNetwork {
 public:
  OpenVinoDetector(ov::InferRequest request, const Detector& detector)
      : request_(std::move(request)), detector_(detector) {}

  std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                  std::int64_t width) override {
    const TensorSpec spec{detector_.input, Dtype::float32, Layout::nchw, 3, 1};
    return call_openvino(
        [&] {
          request_.set_tensor(spec.name, tensor(spec, {1, height, width, height, width}, picture));
          request_.infer();
          std::vector<DetectorOutput> outputs;
          for (const auto& [name, meaning] : detector_.outputs) {
            const ov::Tensor values = request_.get_tensor(name);
            const ov::Shape& sides = values.get_shape();
            const bool floats = values.get_element_type() == ov::element::f32;
            outputs.push_back({{name,
                                floats ? type_name(Dtype::float32) : "another type",
                                {sides.begin(), sides.end()}},
                               values.data()});
          }
          return outputs;
        },
        [](const std::string& reason) {
          return unavailable_error("openvino failed in the face detector: ", reason);
        });
  }

 private:
  ov::InferRequest request_;
  const Detector& detector_;
};

}  // namespace

// On the processor. Compiled once, for every size: a model of one size is as fast
// (docs/decisions.md).
std::unique_ptr<DetectorNetwork> open_openvino_detector(const Bundle& bundle,
                                                        const ov::AnyMap& config) {
  const Detector& detector = detector_of(bundle);
  const auto path = detector_file(bundle);
  const std::shared_ptr<const ov::Model> model = read_model(path);
  std::vector<End> outputs;
  for (const auto& [name, meaning] : detector.outputs) outputs.push_back({name, "", {}});
  check_detector_ends(path, detector,
                      {read_ends(model->inputs(), {{detector.input, "", {}}}),
                       read_ends(model->outputs(), outputs)});
  return call_openvino(
      [&] {
        auto compiled = core().compile_model(model, kCpu, config);
        return std::make_unique<OpenVinoDetector>(compiled.create_infer_request(), detector);
      },
      [&](const std::string& reason) {
        return unavailable_error("openvino cannot run ", path.string(), ": ", reason);
      });
}

}  // namespace elir::core
