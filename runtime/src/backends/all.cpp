#include "all.hpp"

#include <iterator>

#include "../choice.hpp"
#include "../error.hpp"
#include "../messages.hpp"

namespace elir::core {
namespace {

// In the place of a backend that this library was built without.
class AbsentBackend final : public Backend {
 public:
  AbsentBackend(Capabilities capabilities, const std::string& option)
      : Backend(std::move(capabilities)),
        reason_("this libelir was built without it: configure with -D" + option + "=ON") {}

  std::optional<std::string> available() const override { return reason_; }
  std::vector<std::unique_ptr<Session>> open(const Bundle&, const std::string&,
                                             const Setup&) const override {
    throw unavailable_error(message("cannot_use", {{"backend", name}, {"reason", reason_}}));
  }

 private:
  std::string reason_;
};

struct Registry {
  Backends owned;
  std::vector<const Backend*> all;
  std::vector<std::string> built;

  void add(Backends made) {
    for (auto& backend : made) {
      built.push_back(backend->name);
      all.push_back(backend.get());
      owned.push_back(std::move(backend));
    }
  }
  void add_absent(Capabilities capabilities, const char* option) {
    owned.push_back(std::make_unique<AbsentBackend>(std::move(capabilities), option));
    all.push_back(owned.back().get());
  }
};

const Registry& registry() {
  static const Registry made = [] {
    Registry found;
#ifdef ELIR_WITH_TENSORRT
    found.add(make_tensorrt_backends());
#else
    found.add_absent({"tensorrt", "tensorrt", {"int8", "fp16", "fp32"}, true},
                     "ELIR_WITH_TENSORRT");
#endif
#ifdef ELIR_WITH_TENSORRT_RTX
    found.add(make_tensorrt_rtx_backends());
#else
    found.add_absent({"tensorrt-rtx", "tensorrt-rtx", {"fp16", "fp32", "int8"}, true},
                     "ELIR_WITH_TENSORRT_RTX");
#endif
#ifdef ELIR_WITH_ONNXRUNTIME
    found.add(make_onnxruntime_backends());
#else
    found.add_absent({"onnxruntime", "onnx", {"fp32", "int8", "fp16"}, true},
                     "ELIR_WITH_ONNXRUNTIME");
#endif
#ifdef ELIR_WITH_OPENVINO
    found.add(make_openvino_backends());
#else
    found.add_absent({"openvino", "onnx", {"int8", "bf16", "fp32", "fp16"}, true},
                     "ELIR_WITH_OPENVINO");
#endif
#ifdef ELIR_WITH_REFERENCE
    found.add(make_reference_backends());
#endif
    return found;
  }();
  return made;
}

}  // namespace

const std::vector<const Backend*>& backends() { return registry().all; }

const std::vector<std::string>& built_in() { return registry().built; }

}  // namespace elir::core
