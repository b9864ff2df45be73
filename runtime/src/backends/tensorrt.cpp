// Runs engines on TensorRT and TensorRT-RTX. Both have the same interface: this file is compiled
// once for each.
#include "tensorrt_detector.hpp"

#include <algorithm>
#include <iterator>

#include "../cache.hpp"
#include "../detector_graph.hpp"
#include "all.hpp"

namespace elir::core {
namespace {

// Whether the installed library runs an engine on a compute capability.
bool is_usable(const Artifact& artifact, const std::string& device) {
  const Release release = release_of(artifact.tool_version);
  const Release& installed = library().release;
  return runs_on(artifact, device) &&
         (release == installed || (kVersionCompatibility && artifact.version_compatible &&
                                   is_compatible(release, installed)));
}

End read_end(const nvinfer1::ICudaEngine& engine, const char* name) {
  const nvinfer1::DataType type = engine.getTensorDataType(name);
  const nvinfer1::Dims shape = engine.getTensorShape(name);
  std::string dtype = type == nvinfer1::DataType::kUINT8   ? "uint8"
                      : type == nvinfer1::DataType::kFLOAT ? "float32"
                                                           : "another type";
  if (engine.getTensorFormat(name) != nvinfer1::TensorFormat::kLINEAR) {
    dtype += " in another format";
  }
  if (engine.getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) dtype += " on the host";
  return {name, dtype, sides_of(shape)};
}

GraphEnds read_ends(const nvinfer1::ICudaEngine& engine) {
  GraphEnds ends;
  for (int i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    const bool input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    (input ? ends.inputs : ends.outputs).push_back(read_end(engine, name));
  }
  return ends;
}

// Throws a bundle error unless there is an optimisation profile for each shape, in order, with
// batches from 1 to the shape's.
void check_profiles(const std::string& path, const nvinfer1::ICudaEngine& engine,
                    const Stage& stage, const Manifest& manifest) {
  if (!has_profiles(manifest)) return;
  const auto count = static_cast<std::int32_t>(manifest.shapes.size());
  if (engine.getNbOptimizationProfiles() != count) {
    throw bundle_error(path, ": the engine has ", engine.getNbOptimizationProfiles(),
                       " optimisation profiles, expected ", count, ", one for each shape");
  }
  for (std::int32_t i = 0; i < count; ++i) {
    for (const End& end : stage.ends(manifest.shapes[static_cast<std::size_t>(i)]).inputs) {
      const auto of = [&](nvinfer1::OptProfileSelector which) {
        const nvinfer1::Dims shape = engine.getProfileShape(end.name.c_str(), i, which);
        return End{end.name, end.dtype, sides_of(shape)};
      };
      const End first = of(nvinfer1::OptProfileSelector::kMIN);
      const End last = of(nvinfer1::OptProfileSelector::kMAX);
      End single = end;
      single.sides.front() = 1;
      if (first.sides == single.sides && last.sides == end.sides) continue;
      throw bundle_error(path, ": profile ", i, " is for ", first.describe(), " to ",
                         last.describe(), ", expected ", single.describe(), " to ", end.describe());
    }
  }
}

// A version-compatible engine contains the runtime of its version, which is executable code.
// TensorRT-RTX has no such engines.
template <typename Runtime>
void allow_host_code(Runtime& runtime) {
  if constexpr (kVersionCompatibility) runtime.setEngineHostCodeAllowed(true);
}

// Height and width of each optimisation profile of a face detector's engine, in order. Throws a
// bundle error if its ends are not the manifest's, or a profile is not of one picture's size.
std::vector<PictureSize> detector_sizes(const std::string& path,
                                        const nvinfer1::ICudaEngine& engine,
                                        const Detector& detector) {
  constexpr std::int64_t kMaxSide = std::int64_t{1} << 14;
  check_detector_ends(path, detector, read_ends(engine));
  std::vector<PictureSize> sizes;
  for (std::int32_t i = 0; i < engine.getNbOptimizationProfiles(); ++i) {
    const auto of = [&](nvinfer1::OptProfileSelector which) {
      return End{detector.input, type_name(Dtype::float32),
                 sides_of(engine.getProfileShape(detector.input.c_str(), i, which))};
    };
    const End first = of(nvinfer1::OptProfileSelector::kMIN);
    const End last = of(nvinfer1::OptProfileSelector::kMAX);
    const auto is_side = [&](std::int64_t side) {
      return side > 0 && side <= kMaxSide && side % detector.multiple == 0;
    };
    const auto& sides = last.sides;
    if (first.sides != sides || sides.size() != 4 || sides[0] != 1 || sides[1] != 3 ||
        !is_side(sides[2]) || !is_side(sides[3])) {
      throw bundle_error(path, ": profile ", i, " is for ", first.describe(), " to ",
                         last.describe(),
                         ", expected one picture of one size, with sides in multiples of ",
                         detector.multiple, " up to ", kMaxSide);
    }
    sizes.push_back({sides[2], sides[3]});
  }
  return sizes;
}

// Loads an engine, whose contents are not checked. `rebuild` is the command that builds it.
Engine load_file(const std::filesystem::path& path, const Artifact& artifact,
                 const std::string& rebuild) {
  const auto content = MappedFile::open(path);
  if (!content) {
    throw bundle_error(path.string(), " cannot be mapped into memory: copy the bundle again");
  }
  engine_log().take();
  Engine result;
  result.runtime.reset(static_cast<nvinfer1::IRuntime*>(
      library().create_runtime(&engine_log(), NV_TENSORRT_VERSION)));
  if (!result.runtime) {
    throw unavailable_error(installed(), " does not start: ", summarize(engine_log().take()));
  }
  if (artifact.version_compatible) allow_host_code(*result.runtime);
  result.engine.reset(result.runtime->deserializeCudaEngine(content->data(), content->size()));
  if (!result.engine) {
    const std::vector<std::string> messages = engine_log().take();
    if (is_device_error(messages)) {
      throw unavailable_error(installed(), " cannot load ", path.string(), ": ",
                              summarize(messages));
    }
    throw bundle_error(path.string(), " cannot be loaded by ", installed(), ": ",
                       summarize(messages), ": build it again with ", rebuild);
  }
  return result;
}

Engine load_engine(const std::filesystem::path& path, const Artifact& artifact, const Stage& stage,
                   const Manifest& manifest, const std::string& rebuild) {
  Engine result = load_file(path, artifact, rebuild);
  check_ends(path.string() + ": its", read_ends(*result.engine),
             stage.ends(manifest.graph_shape()));
  check_profiles(path.string(), *result.engine, stage, manifest);
  return result;
}

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend() : Backend({kName, kName, automatic_precisions(kName), true}) {}

  std::optional<std::string> available() const override {
    try {
      library();
      return cuda_problem();
    } catch (const Failure& failure) {
      return failure.what();
    }
  }

  // Engines for other devices, too: opening one reports what to do.
  bool can_load(const Artifact& artifact) const override { return artifact.kind == kind; }

  // The precisions with engines that fit a device or, if none fits or is known, with any engines.
  std::vector<std::string> held_precisions(const Bundle& bundle) const override {
    const std::vector<std::string> all = Backend::held_precisions(bundle);
    if (available()) return all;
    const std::vector<std::string> devices = compute_capabilities();
    std::vector<std::string> fit;
    std::copy_if(all.begin(), all.end(), std::back_inserter(fit), [&](const auto& precision) {
      return std::any_of(devices.begin(), devices.end(), [&](const std::string& device) {
        return fits(bundle, precision, device);
      });
    });
    return fit.empty() ? all : fit;
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    const std::string device = capability_of(setup.device);
    const Manifest& manifest = bundle.manifest();
    const auto& stages = manifest.stages;
    const std::string command = rebuild_command(bundle, precision, device);
    static_cast<void>(artifacts(bundle, precision));  // throws if a stage has none
    std::vector<const Artifact*> chosen;
    for (const Stage& stage : stages)
      chosen.push_back(&require_engine(bundle, stage.artifacts, precision, device, command));
    const CurrentDevice current(setup.device);
    std::vector<Engine> engines;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      engines.push_back(load_engine(bundle.checked_file(chosen[i]->file), *chosen[i], stages[i],
                                    manifest, command));
    }
    std::vector<std::unique_ptr<Session>> sessions;
    // Two: one copies while the other computes.
    for (int i = 0; i < (setup.throughput ? 2 : 1); ++i) {
      sessions.push_back(
          std::make_unique<TensorRtSession>(setup.device, manifest, engines, setup.log));
    }
    return sessions;
  }

  std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                 const Setup& setup) const override {
    const std::string device = capability_of(setup.device);
    const Detector& detector = detector_of(bundle);
    // Which builds the detector's engine beside those of any precision.
    const std::string command = rebuild_command(bundle, "", device);
    const auto& files = detector.artifacts;
    if (std::none_of(files.begin(), files.end(),
                     [&](const auto& each) { return can_load(each); })) {
      throw unavailable_error(bundle.path().string(), " has no ", name,
                              " engine of its face detector: ", command);
    }
    const Artifact& artifact = require_engine(bundle, files, "fp32", device, command);
    const auto path = bundle.checked_file(artifact.file);
    const CurrentDevice current(setup.device);
    Engine engine = load_file(path, artifact, command);
    std::vector<PictureSize> sizes = detector_sizes(path.string(), *engine.engine, detector);
    return std::make_unique<TensorRtDetector>(setup.device, bundle.manifest(), std::move(engine),
                                              detector, std::move(sizes), setup.log);
  }

 private:
  // Throws an unavailable error if the backend or the device is.
  std::string capability_of(int device) const {
    if (const auto reason = available()) {
      throw unavailable_error(name, " cannot be used: ", *reason);
    }
    check_device(device);
    return compute_capability(device);
  }

  // Of a network's engines the one for a compute capability, preferably one built for it. Null if
  // there is none.
  const Artifact* find_engine(const std::vector<Artifact>& artifacts, const std::string& precision,
                              const std::string& device) const {
    const Artifact* result = nullptr;
    for (const Artifact& engine : artifacts) {
      if (engine.kind != kind || engine.precision != precision || !is_usable(engine, device))
        continue;
      if (is_built_for(engine, device)) return &engine;
      if (result == nullptr) result = &engine;
    }
    return result;
  }

  bool fits(const Bundle& bundle, const std::string& precision, const std::string& device) const {
    const auto& stages = bundle.manifest().stages;
    return std::all_of(stages.begin(), stages.end(), [&](const Stage& stage) {
      return find_engine(stage.artifacts, precision, device) != nullptr;
    });
  }

  // Throws an unavailable error if none of a network's engines fits.
  const Artifact& require_engine(const Bundle& bundle, const std::vector<Artifact>& engines,
                                 const std::string& precision, const std::string& device,
                                 const std::string& command) const {
    if (const Artifact* engine = find_engine(engines, precision, device)) return *engine;
    std::vector<std::string> others;
    for (const Artifact& engine : engines) {
      if (engine.kind != kind || engine.precision != precision) continue;
      std::string one = text(engine.target.value_or("any device"), " by ", engine.tool_version);
      if (std::find(others.begin(), others.end(), one) == others.end()) others.push_back(one);
    }
    if (others.empty()) {
      throw unavailable_error(bundle.path().string(), " has no ", precision, " engine for ", name,
                              ": ", command);
    }
    throw unavailable_error("no ", name, " engine of ", bundle.path().string(),
                            " fits: it has engines for ", joined(others, ", "),
                            ", expected one for ", device, " by ", installed(), ": ", command);
  }

  // The command that builds engines for `device`; no precision: of those that passed.
  static std::string rebuild_command(const Bundle& bundle, const std::string& precision,
                                     const std::string& device) {
    return text("elir-build ", shell_quoted(bundle.path().string()), " ",
                kVersionCompatibility ? "--device" : "--target " + device,
                precision.empty() ? "" : " --precision " + precision);
  }
};

}  // namespace

#ifdef ELIR_TENSORRT_RTX
const Backend& tensorrt_rtx_backend() {
#else
const Backend& tensorrt_backend() {
#endif
  static const TensorRtBackend backend;
  return backend;
}

}  // namespace elir::core
