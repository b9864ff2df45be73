#include "backend.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "error.hpp"

namespace elir::core {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Buffer::Buffer(std::size_t bytes) : data_(::operator new(bytes, kAlignment)) {
  std::memset(data_.get(), 0, bytes);
}

void Buffer::Free::operator()(void* data) const { ::operator delete(data, kAlignment); }

void Tensors::run_images(const elir_image* /*inputs*/, const elir_image* /*outputs*/) {
  throw unavailable_error("this backend has no device memory");
}

HostTensors::HostTensors(const std::vector<Stage>& stages, const Shape& shape) {
  chain_.emplace_back(stages.front().input.bytes(shape));
  for (const Stage& stage : stages) {
    chain_.emplace_back(stage.output.bytes(shape));
    if (stage.noise) noise_.emplace(stage.noise->bytes(shape));
  }
}

Tensors& Session::tensors(const Shape& shape) {
  auto& place = tensors_[{shape.padded_height, shape.padded_width, shape.batch}];
  if (!place) place = allocate(shape);
  return *place;
}

std::optional<PictureSize> DetectorNetwork::size_for(const PictureSize& other) const {
  const std::vector<PictureSize> all = sizes();
  if (all.empty()) return other;
  std::optional<PictureSize> best;
  for (const PictureSize& size : all) {
    if (size.height < other.height || size.width < other.width) continue;
    if (!best || size.height * size.width < best->height * best->width) best = size;
  }
  return best;
}

std::vector<std::string> Backend::held_precisions(const Bundle& bundle) const {
  const auto& stages = bundle.manifest().stages;
  std::vector<std::string> available;
  for (const std::string& precision : precisions) {
    if (std::all_of(stages.begin(), stages.end(), [&](const Stage& stage) {
          return find_artifact(stage, precision) != nullptr;
        })) {
      available.push_back(precision);
    }
  }
  return available;
}

std::unique_ptr<const Backend> Backend::on_device(const std::string& device) const {
  throw usage_error(name, " has no device '", device,
                    "': its GPUs have numbers, from 0 on; devices with names, such as GPU and NPU, "
                    "are openvino's");
}

std::unique_ptr<DetectorNetwork> Backend::open_detector(const Bundle& /*bundle*/,
                                                        const Setup& /*setup*/) const {
  throw unavailable_error(available().value_or(text(name, " runs no face detectors")));
}

std::vector<const Artifact*> Backend::artifacts(const Bundle& bundle,
                                                const std::string& precision) const {
  std::vector<const Artifact*> chosen;
  for (const Stage& stage : bundle.manifest().stages) {
    chosen.push_back(find_artifact(stage, precision));
    if (chosen.back() == nullptr) {
      throw bundle_error(bundle.path().string(), ": ", stage.name, " has no ",
                         file_precision(precision), " ", kind, " file that ", name, " can load");
    }
  }
  return chosen;
}

const Artifact* Backend::find_artifact(const Stage& stage, const std::string& precision) const {
  const auto artifact =
      std::find_if(stage.artifacts.begin(), stage.artifacts.end(), [&](const Artifact& each) {
        return each.precision == file_precision(precision) && can_load(each);
      });
  return artifact == stage.artifacts.end() ? nullptr : &*artifact;
}

const std::string& file_precision(const std::string& precision) {
  static const std::string kFp32 = "fp32";
  return precision == "bf16" ? kFp32 : precision;
}

}  // namespace elir::core
