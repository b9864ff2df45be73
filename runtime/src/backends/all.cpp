#include "all.hpp"

#include "../choice.hpp"
#include "../error.hpp"

namespace elir::core {
namespace {

// Stands in for a backend that this library was built without.
class AbsentBackend final : public Backend {
 public:
  AbsentBackend(Capabilities capabilities, const char* option)
      : Backend(std::move(capabilities)), option_(option) {}

  std::unique_ptr<const Backend> on_device(const std::string& device) const override {
    if (name != kNamesDevices) return Backend::on_device(device);
    return std::make_unique<AbsentBackend>(Capabilities(*this), option_);
  }

  std::optional<std::string> available() const override {
    return text("this libelir was built without it: configure with -D", option_, "=ON");
  }
  std::vector<std::unique_ptr<Session>> open(const Bundle&, const std::string&,
                                             const Setup&) const override {
    throw unavailable_error(name, " cannot be used: ", *available());
  }

 private:
  const char* option_;
};

const Backend* absent(const char* name, const char* kind, const char* option) {
  static std::vector<std::unique_ptr<const Backend>> all;
  const Capabilities capabilities{name, kind, automatic_precisions(name), true};
  all.push_back(std::make_unique<AbsentBackend>(capabilities, option));
  return all.back().get();
}

}  // namespace

const std::vector<const Backend*>& backends() {
  static const std::vector<const Backend*> all = {
#ifdef ELIR_WITH_TENSORRT
      &tensorrt_backend(),
#else
      absent("tensorrt", "tensorrt", "ELIR_WITH_TENSORRT"),
#endif
#ifdef ELIR_WITH_TENSORRT_RTX
      &tensorrt_rtx_backend(),
#else
      absent("tensorrt-rtx", "tensorrt-rtx", "ELIR_WITH_TENSORRT_RTX"),
#endif
#ifdef ELIR_WITH_ONNXRUNTIME
      &onnxruntime_backend(),
#else
      absent("onnxruntime", "onnx", "ELIR_WITH_ONNXRUNTIME"),
#endif
#ifdef ELIR_WITH_OPENVINO
      &openvino_backend(),
#else
      absent("openvino", "onnx", "ELIR_WITH_OPENVINO"),
#endif
#ifdef ELIR_WITH_REFERENCE
      &reference_backend(),
#endif
  };
  return all;
}

std::vector<std::string> built_in() {
  std::vector<std::string> names;
  for (const Backend* backend : backends()) {
    if (dynamic_cast<const AbsentBackend*>(backend) == nullptr) names.push_back(backend->name);
  }
  return names;
}

}  // namespace elir::core
