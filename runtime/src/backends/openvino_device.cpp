#include "openvino_device.hpp"

#include <algorithm>
#include <map>

#include "../text.hpp"

namespace elir::core {
namespace {

using Types = std::map<std::string, std::string>;

// By precision. On the processor, fp16 files have float16 weights and are computed in float32.
const Types kOnTheCpu = {
    {"fp32", "f32"}, {"fp16", "f32"}, {"bf16", "bf16"}, {"int8", "bf16"}, {"w8", "f32"}};
// Not every device has float32, and some have no float16.
const Types kElsewhere = {
    {"fp32", "f32"}, {"fp16", "f16"}, {"bf16", "bf16"}, {"int8", "f16"}, {"w8", "f16"}};
// What a device must be capable of to run in a precision.
const Types kNeeded = {{"fp32", "FP32"}, {"bf16", "BF16"}, {"int8", "INT8"}};

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

Failure openvino_does_not_start(const std::string& reason) {
  return unavailable_error("openvino does not start: ", reason);
}

std::vector<std::string> OpenVinoDevice::capabilities() const {
  std::vector<std::string> names = property(ov::device::capabilities);
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> OpenVinoDevice::missing() const {
  try {
    const std::vector<std::string> devices =
        call_openvino([] { return core().get_available_devices(); }, openvino_does_not_start);
    // One GPU is called GPU, of several the first GPU.0; OpenVINO takes either for it.
    const std::string first = ".0";
    const bool numbered = name.size() > first.size() &&
                          name.compare(name.size() - first.size(), first.size(), first) == 0;
    if (contains(devices, name) || contains(devices, name + first) ||
        (numbered && contains(devices, name.substr(0, name.size() - first.size())))) {
      return std::nullopt;
    }
    if (is_cpu()) return text("the installed openvino has no ", kCpu, " plugin");
    return text("openvino finds no device ", name, ", only ", joined(devices, ", "),
                ": choose one of those, or install Intel's driver for the device");
  } catch (const Failure& failure) {
    return failure.what();
  }
}

std::optional<std::string> OpenVinoDevice::unsupported(const std::string& precision) const {
  const auto needed = kNeeded.find(precision);
  if (needed == kNeeded.end() || (is_cpu() && precision != "bf16")) return std::nullopt;
  const std::vector<std::string> all = capabilities();
  if (contains(all, needed->second)) return std::nullopt;
  if (is_cpu()) {
    return "this processor has no bf16 instructions (AVX512_BF16 or AMX_BF16): run in fp32";
  }
  std::vector<std::string> able;
  for (const char* type : {"FP32", "BF16", "FP16", "INT8"}) {
    if (contains(all, type)) able.emplace_back(type);
  }
  return text(name, " has no ", needed->second, ", only ",
              able.empty() ? "none of the types" : joined(able, ", "),
              ": choose another precision");
}

std::string OpenVinoDevice::float_type(const std::string& precision) const {
  const std::string& type = (is_cpu() ? kOnTheCpu : kElsewhere).at(precision);
  const char* const capable = type == "bf16" ? "BF16" : type == "f16" ? "FP16" : nullptr;
  // OpenVINO's emulation of bfloat16 is slow.
  return capable == nullptr || contains(capabilities(), capable) ? type : "f32";
}

}  // namespace elir::core
