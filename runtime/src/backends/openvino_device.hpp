// OpenVINO's devices: the processor, and Intel's GPUs and NPUs under OpenVINO's names for them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "openvino_model.hpp"

namespace elir::core {

Failure openvino_does_not_start(const std::string& reason);

// One device, which need not be there.
struct OpenVinoDevice {
  std::string name = kCpu;

  bool is_cpu() const { return name == kCpu; }

  // OpenVINO's value of a property. Throws an unavailable error.
  template <typename Property>
  auto property(const Property& property) const {
    return call_openvino([&] { return core().get_property(name, property); },
                         openvino_does_not_start);
  }

  // OpenVINO's names for what it computes in, sorted, such as FP16.
  std::vector<std::string> capabilities() const;

  // Why it cannot be used on this machine, and what to do; none: it can.
  std::optional<std::string> missing() const;

  // Why it does not run in `precision`, and what to do; none: it does.
  std::optional<std::string> unsupported(const std::string& precision) const;

  // The type that floating-point operators compute in.
  std::string float_type(const std::string& precision) const;
};

}  // namespace elir::core
