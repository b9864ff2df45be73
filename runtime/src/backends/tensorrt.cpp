// Engines on TensorRT, or on TensorRT-RTX, which has the same interface: this file is compiled once
// against the header of each.
//
// One run copies the image in, lets every engine queue its work, and copies the result out, all on
// one stream; the tensors between engines stay on the device. The second run is captured as a CUDA
// graph, and from then on a run is one launch.
#include "nvinfer.hpp"

#include <algorithm>
#include <iterator>

#include "../cache.hpp"
#include "../error.hpp"
#include "../text.hpp"
#include "all.hpp"
#include "cuda.hpp"

namespace elir::core {
namespace {

// For a call that the library answers with null or false.
Failure refused(const char* call, const Stage& stage) {
  return unavailable_error(library(), ": ", call, " of ", stage.name,
                           " failed: ", brief(engine_log().taken()));
}

// Whether an engine runs on a device under the library that is here.
bool suits(const Artifact& artifact, const std::string& device) {
  const Release made = release_of(artifact.tool_version);
  const Release& here = vendor().release;
  return is_for(artifact, device) &&
         (made == here || (kLaterReleases && artifact.version_compatible && in_reach(made, here)));
}

End described_by(const nvinfer1::ICudaEngine& engine, const char* name) {
  const nvinfer1::DataType type = engine.getTensorDataType(name);
  const nvinfer1::Dims shape = engine.getTensorShape(name);
  std::string dtype = type == nvinfer1::DataType::kUINT8   ? "uint8"
                      : type == nvinfer1::DataType::kFLOAT ? "float32"
                                                           : "another type";
  if (engine.getTensorFormat(name) != nvinfer1::TensorFormat::kLINEAR) {
    dtype += " in another format";
  }
  if (engine.getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) dtype += " on the host";
  return {name, dtype, {shape.d, shape.d + std::max(shape.nbDims, 0)}};
}

void check_tensors(const std::filesystem::path& path, const nvinfer1::ICudaEngine& engine,
                   nvinfer1::TensorIOMode mode, const char* what, const TensorSpec& spec) {
  std::vector<End> seen;
  for (int i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    if (engine.getTensorIOMode(name) == mode) seen.push_back(described_by(engine, name));
  }
  check_ends(text(path.string(), ": its ", what), seen, {spec.end()});
}

// Released in the opposite order.
struct Engine {
  std::shared_ptr<nvinfer1::IRuntime> runtime;
  std::shared_ptr<nvinfer1::ICudaEngine> engine;
};

// A version compatible engine carries a runtime of its own version: code, as much as the rest of it
// is. TensorRT-RTX has none of them.
template <typename Runtime>
void allow_host_code(Runtime& runtime) {
  if constexpr (kLaterReleases) runtime.setEngineHostCodeAllowed(true);
}

// `rebuild` is the command that makes the engine anew.
Engine loaded(const std::filesystem::path& path, const Artifact& artifact, const Stage& stage,
              const std::string& rebuild) {
  const auto content = MappedFile::of(path);
  if (!content) {
    throw bundle_error(path.string(), " cannot be read: it cannot be mapped");
  }
  engine_log().taken();
  Engine made;
  made.runtime.reset(static_cast<nvinfer1::IRuntime*>(
      vendor().create_runtime(&engine_log(), NV_TENSORRT_VERSION)));
  if (!made.runtime) {
    throw unavailable_error(library(), " does not start: ", brief(engine_log().taken()));
  }
  if (artifact.version_compatible) allow_host_code(*made.runtime);
  made.engine.reset(made.runtime->deserializeCudaEngine(content->data(), content->size()));
  if (!made.engine) {
    const std::vector<std::string> reasons = engine_log().taken();
    if (of_the_device(reasons)) {
      throw unavailable_error(library(), " cannot load ", path.string(), ": ", brief(reasons));
    }
    throw bundle_error(path.string(), " cannot be loaded by ", library(), ": ", brief(reasons),
                       ": make it anew with ", rebuild);
  }
  check_tensors(path, *made.engine, nvinfer1::TensorIOMode::kINPUT, "input", stage.input);
  check_tensors(path, *made.engine, nvinfer1::TensorIOMode::kOUTPUT, "output", stage.output);
  return made;
}

// TensorRT-RTX alone knows beforehand whether its work can be captured.
template <typename Context, typename = void>
struct TellsCapturable : std::false_type {};
template <typename Context>
struct TellsCapturable<Context, std::void_t<decltype(std::declval<Context&>().isStreamCapturable(
                                    std::declval<cudaStream_t>()))>> : std::true_type {};

template <typename Context>
bool capturable(Context& context, cudaStream_t stream) {
  if constexpr (TellsCapturable<Context>::value) return context.isStreamCapturable(stream);
  return true;
}

class TensorRtSession final : public Session {
 public:
  TensorRtSession(int device, const std::vector<Stage>& stages, const std::vector<Engine>& engines,
                  const Log& log)
      : device_(device),
        log_(log),
        input_bytes_(stages.front().input.bytes()),
        output_bytes_(stages.back().output.bytes()),
        input_(pinned_memory(input_bytes_)),
        output_(pinned_memory(output_bytes_)),
        stream_(new_stream()) {
    buffers_.push_back(device_memory(input_bytes_));
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const Stage& stage = stages[i];
      buffers_.push_back(device_memory(stage.output.bytes()));
      engine_log().taken();
      Step step{&stage, engines[i], nullptr};
      step.context.reset(engines[i].engine->createExecutionContext());
      if (!step.context) throw refused("createExecutionContext", stage);
      if (!step.context->setTensorAddress(stage.input.name.c_str(), buffers_[i].get()) ||
          !step.context->setTensorAddress(stage.output.name.c_str(), buffers_[i + 1].get())) {
        throw refused("setTensorAddress", stage);
      }
      steps_.push_back(std::move(step));
    }
  }

  ~TensorRtSession() override {
    try {
      const CurrentDevice current(device_);
      static_cast<void>(cudaStreamSynchronize(stream_.get()));
      give_back();
    } catch (const Failure&) {  // the device is gone: what can be given back is, by the members
    }
  }

  void* input() override { return input_.get(); }
  void* output() override { return output_.get(); }

  void run() override {
    if (!lost_.empty()) throw unavailable_error(lost_);
    const CurrentDevice current(device_);  // this thread may be new
    try {
      run_here();
    } catch (const Failure& failure) {
      // Nothing may be left that still reads or writes the buffers.
      const cudaError_t error = cudaStreamSynchronize(stream_.get());
      if (error == cudaSuccess) {
        throw unavailable_error(failure.what(), "; the session can be used again");
      }
      // CUDA repeats an error that it cannot recover from.
      const std::string reason = failed_call("cudaStreamSynchronize", error);
      lost_ = text("CUDA device ", device_, " does not answer any more (", reason,
                   "): end this process and start another");
      static_cast<void>(cudaGetLastError());
      throw unavailable_error(failure.what(), "; ", lost_);
    } catch (...) {
      static_cast<void>(cudaStreamSynchronize(stream_.get()));
      throw;
    }
  }

 private:
  struct Step {
    const Stage* stage;  // of the manifest, which outlives this
    Engine engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
  };

  void run_here() {
    // Not the first: an engine may then prepare itself, which no graph can hold.
    if (ran_ && !capture_tried_) {
      capture_tried_ = true;
      capture();
    }
    if (graph_) {
      check_cuda(cudaGraphLaunch(graph_.get(), stream_.get()), "cudaGraphLaunch");
    } else {
      enqueue();
    }
    check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
    ran_ = true;
  }

  void enqueue() {
    engine_log().taken();
    check_cuda(cudaMemcpyAsync(buffers_.front().get(), input_.get(), input_bytes_,
                               cudaMemcpyHostToDevice, stream_.get()),
               "cudaMemcpyAsync");
    for (const Step& step : steps_) {
      if (!step.context->enqueueV3(stream_.get())) throw refused("enqueueV3", *step.stage);
    }
    check_cuda(cudaMemcpyAsync(output_.get(), buffers_.back().get(), output_bytes_,
                               cudaMemcpyDeviceToHost, stream_.get()),
               "cudaMemcpyAsync");
  }

  // Makes a run one launch; where that fails, runs go on without.
  void capture() {
    try {
      graph_ = captured();
    } catch (const Failure& failure) {
      abandon_capture();
      log_.warn(
          text("runs are not captured as a CUDA graph and take a little longer: ", failure.what()));
    } catch (...) {
      abandon_capture();
      throw;
    }
  }

  GraphExec captured() {
    for (const Step& step : steps_) {
      if (capturable(*step.context, stream_.get())) continue;
      throw unavailable_error(library(), " says that ", step.stage->name, " cannot be captured");
    }
    check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
    enqueue();
    cudaGraph_t made = nullptr;
    check_cuda(cudaStreamEndCapture(stream_.get(), &made), "cudaStreamEndCapture");
    const Graph graph(made);
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaGraphInstantiateWithFlags(&exec, graph.get(), 0), "cudaGraphInstantiate");
    return GraphExec(exec);
  }

  // What began must end, or the stream takes nothing any more.
  void abandon_capture() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream_.get(), &status) == cudaSuccess &&
        status != cudaStreamCaptureStatusNone) {
      cudaGraph_t unfinished = nullptr;
      static_cast<void>(cudaStreamEndCapture(stream_.get(), &unfinished));
      const Graph graph(unfinished);
    }
    static_cast<void>(cudaGetLastError());
  }

  // In the opposite order of their making.
  void give_back() {
    graph_.reset();
    steps_.clear();
    stream_.reset();
    buffers_.clear();
    output_.reset();
    input_.reset();
  }

  int device_;
  Log log_;
  std::size_t input_bytes_;
  std::size_t output_bytes_;
  PinnedMemory input_;
  PinnedMemory output_;
  std::vector<DeviceMemory> buffers_;
  Stream stream_;
  std::vector<Step> steps_;
  GraphExec graph_;
  bool ran_ = false;
  bool capture_tried_ = false;
  std::string lost_;  // that the device does not answer any more
};

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend() : Backend({kName, kName, automatic_precisions(kName), true}) {}

  std::optional<std::string> available() const override {
    try {
      vendor();
      return missing_cuda_device();
    } catch (const Failure& failure) {
      return failure.what();
    }
  }

  // Engines for other devices are told of when one is opened, since only that says what to do.
  bool takes(const Artifact& artifact) const override { return artifact.kind == kind; }

  // Those with engines that fit a device; where none does, or nothing is known, those with any.
  std::vector<std::string> held_precisions(const Bundle& bundle) const override {
    const std::vector<std::string> held = Backend::held_precisions(bundle);
    if (available()) return held;
    const std::vector<std::string> devices = capabilities();
    std::vector<std::string> fit;
    std::copy_if(held.begin(), held.end(), std::back_inserter(fit), [&](const auto& precision) {
      return std::any_of(devices.begin(), devices.end(), [&](const std::string& device) {
        return fits(bundle, precision, device);
      });
    });
    return fit.empty() ? held : fit;
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    if (const auto reason = available()) {
      throw unavailable_error(name, " cannot be used: ", *reason);
    }
    check_device(setup.device);
    const std::string device = capability(setup.device);
    const auto& stages = bundle.manifest().stages;
    const std::string remade = rebuild(bundle, precision, device);
    std::vector<const Artifact*> chosen;
    for (const Stage& stage : stages) chosen.push_back(&fitting(bundle, stage, precision, device));
    const CurrentDevice current(setup.device);
    std::vector<Engine> engines;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      engines.push_back(
          loaded(bundle.checked_file(chosen[i]->file), *chosen[i], stages[i], remade));
    }
    std::vector<std::unique_ptr<Session>> made;
    // Two side by side: one copies while the other computes.
    for (int i = 0; i < (setup.throughput ? 2 : 1); ++i) {
      made.push_back(std::make_unique<TensorRtSession>(setup.device, stages, engines, setup.log));
    }
    return made;
  }

 private:
  // The engine of a stage that runs on a device: one made for it before one that merely covers it.
  // Null where there is none.
  const Artifact* best(const Stage& stage, const std::string& precision,
                       const std::string& device) const {
    const Artifact* found = nullptr;
    for (const Artifact& engine : stage.artifacts) {
      if (engine.kind != kind || engine.precision != precision || !suits(engine, device)) continue;
      if (made_for(engine, device)) return &engine;
      if (found == nullptr) found = &engine;
    }
    return found;
  }

  bool fits(const Bundle& bundle, const std::string& precision, const std::string& device) const {
    const auto& stages = bundle.manifest().stages;
    return std::all_of(stages.begin(), stages.end(), [&](const Stage& stage) {
      return best(stage, precision, device) != nullptr;
    });
  }

  const Artifact& fitting(const Bundle& bundle, const Stage& stage, const std::string& precision,
                          const std::string& device) const {
    if (const Artifact* engine = best(stage, precision, device)) return *engine;
    std::vector<std::string> found;
    for (const Artifact& engine : stage.artifacts) {
      if (engine.kind != kind || engine.precision != precision) continue;
      std::string one = text(engine.target.value_or("any device"), " by ", engine.tool_version);
      if (std::find(found.begin(), found.end(), one) == found.end()) found.push_back(one);
    }
    if (found.empty()) static_cast<void>(artifacts(bundle, precision));  // throws
    throw unavailable_error("no ", name, " engine of ", bundle.path().string(), " fits: found for ",
                            joined(found, ", "), "; needed for ", device, " by ", library(), ": ",
                            rebuild(bundle, precision, device));
  }

  // The command that makes an engine for `device`.
  static std::string rebuild(const Bundle& bundle, const std::string& precision,
                             const std::string& device) {
    return text("elir-build ", shell_quoted(bundle.path().string()), " ",
                kLaterReleases ? "--device" : "--target " + device, " --precision " + precision);
  }
};

}  // namespace

#ifdef ELIR_TENSORRT_RTX
const Backend& tensorrt_rtx_backend() {
#else
const Backend& tensorrt_backend() {
#endif
  static const TensorRtBackend made;
  return made;
}

}  // namespace elir::core
