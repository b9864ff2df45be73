// Runs engines on TensorRT and TensorRT-RTX. Both have the same interface: this file is compiled
// once for each.
//
// A run copies the image to the device, enqueues every engine, and copies the result back, all on
// one stream; tensors between engines stay on the device. The second run is captured as a CUDA
// graph, and further runs launch the graph.
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

// The error of a call that returned null or false.
Failure failed_call(const char* call, const Stage& stage) {
  return unavailable_error(installed(), ": ", call, " of ", stage.name,
                           " failed: ", summarize(engine_log().take()));
}

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
  return {name, dtype, {shape.d, shape.d + std::max(shape.nbDims, 0)}};
}

void check_tensors(const std::filesystem::path& path, const nvinfer1::ICudaEngine& engine,
                   nvinfer1::TensorIOMode mode, const char* what, const TensorSpec& spec) {
  std::vector<End> ends;
  for (int i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    if (engine.getTensorIOMode(name) == mode) ends.push_back(read_end(engine, name));
  }
  check_ends(text(path.string(), ": its ", what), ends, {spec.end()});
}

// Destroyed in reverse order.
struct Engine {
  std::shared_ptr<nvinfer1::IRuntime> runtime;
  std::shared_ptr<nvinfer1::ICudaEngine> engine;
};

// A version-compatible engine contains the runtime of its version, which is executable code.
// TensorRT-RTX has no such engines.
template <typename Runtime>
void allow_host_code(Runtime& runtime) {
  if constexpr (kVersionCompatibility) runtime.setEngineHostCodeAllowed(true);
}

// `rebuild` is the command that builds the engine.
Engine load_engine(const std::filesystem::path& path, const Artifact& artifact, const Stage& stage,
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
  check_tensors(path, *result.engine, nvinfer1::TensorIOMode::kINPUT, "input", stage.input);
  check_tensors(path, *result.engine, nvinfer1::TensorIOMode::kOUTPUT, "output", stage.output);
  return result;
}

// Only TensorRT-RTX can tell in advance whether its work can be captured.
template <typename Context, typename = void>
struct HasIsStreamCapturable : std::false_type {};
template <typename Context>
struct HasIsStreamCapturable<Context,
                             std::void_t<decltype(std::declval<Context&>().isStreamCapturable(
                                 std::declval<cudaStream_t>()))>> : std::true_type {};

template <typename Context>
bool is_capturable(Context& context, cudaStream_t stream) {
  if constexpr (HasIsStreamCapturable<Context>::value) return context.isStreamCapturable(stream);
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
      engine_log().take();
      BoundStage bound{&stage, engines[i], nullptr};
      bound.context.reset(engines[i].engine->createExecutionContext());
      if (!bound.context) throw failed_call("createExecutionContext", stage);
      if (!bound.context->setTensorAddress(stage.input.name.c_str(), buffers_[i].get()) ||
          !bound.context->setTensorAddress(stage.output.name.c_str(), buffers_[i + 1].get())) {
        throw failed_call("setTensorAddress", stage);
      }
      stages_.push_back(std::move(bound));
    }
  }

  ~TensorRtSession() override {
    try {
      const CurrentDevice current(device_);
      static_cast<void>(cudaStreamSynchronize(stream_.get()));
      release();
    } catch (const Failure&) {  // the device is lost: the members release what they can
    }
  }

  void* input() override { return input_.get(); }
  void* output() override { return output_.get(); }

  void run() override {
    if (!device_lost_.empty()) throw unavailable_error(device_lost_);
    const CurrentDevice current(device_);  // this thread may be new
    try {
      run_on_device();
    } catch (const Failure& failure) {
      // No queued work may still access the buffers.
      const cudaError_t error = cudaStreamSynchronize(stream_.get());
      if (error == cudaSuccess) {
        throw unavailable_error(failure.what(), "; the session remains usable");
      }
      // CUDA repeats errors that it cannot recover from.
      const std::string reason = error_message("cudaStreamSynchronize", error);
      device_lost_ = text("CUDA device ", device_, " is lost (", reason, "): restart the process");
      static_cast<void>(cudaGetLastError());
      throw unavailable_error(failure.what(), "; ", device_lost_);
    } catch (...) {
      static_cast<void>(cudaStreamSynchronize(stream_.get()));
      throw;
    }
  }

 private:
  struct BoundStage {
    const Stage* stage;  // of the manifest, which outlives this
    Engine engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
  };

  void run_on_device() {
    // Not the first run, in which an engine may initialise itself: a graph cannot capture that.
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
    engine_log().take();
    check_cuda(cudaMemcpyAsync(buffers_.front().get(), input_.get(), input_bytes_,
                               cudaMemcpyHostToDevice, stream_.get()),
               "cudaMemcpyAsync");
    for (const BoundStage& bound : stages_) {
      if (!bound.context->enqueueV3(stream_.get())) throw failed_call("enqueueV3", *bound.stage);
    }
    check_cuda(cudaMemcpyAsync(output_.get(), buffers_.back().get(), output_bytes_,
                               cudaMemcpyDeviceToHost, stream_.get()),
               "cudaMemcpyAsync");
  }

  // Captures a run as a graph; on failure, runs continue without.
  void capture() {
    try {
      graph_ = capture_graph();
    } catch (const Failure& failure) {
      abandon_capture();
      log_.warn(
          text("runs are not captured as a CUDA graph and take slightly longer: ", failure.what()));
    } catch (...) {
      abandon_capture();
      throw;
    }
  }

  GraphExec capture_graph() {
    for (const BoundStage& bound : stages_) {
      if (is_capturable(*bound.context, stream_.get())) continue;
      throw unavailable_error(installed(), " says that ", bound.stage->name, " cannot be captured");
    }
    check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
    enqueue();
    cudaGraph_t captured = nullptr;
    check_cuda(cudaStreamEndCapture(stream_.get(), &captured), "cudaStreamEndCapture");
    const Graph graph(captured);
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaGraphInstantiateWithFlags(&exec, graph.get(), 0), "cudaGraphInstantiate");
    return GraphExec(exec);
  }

  // Ends an open capture, which would block the stream.
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

  // In reverse order of creation.
  void release() {
    graph_.reset();
    stages_.clear();
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
  std::vector<BoundStage> stages_;
  GraphExec graph_;
  bool ran_ = false;
  bool capture_tried_ = false;
  std::string device_lost_;  // error message; empty: not lost
};

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
    if (const auto reason = available()) {
      throw unavailable_error(name, " cannot be used: ", *reason);
    }
    check_device(setup.device);
    const std::string device = compute_capability(setup.device);
    const auto& stages = bundle.manifest().stages;
    const std::string command = rebuild_command(bundle, precision, device);
    std::vector<const Artifact*> chosen;
    for (const Stage& stage : stages)
      chosen.push_back(&require_engine(bundle, stage, precision, device));
    const CurrentDevice current(setup.device);
    std::vector<Engine> engines;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      engines.push_back(
          load_engine(bundle.checked_file(chosen[i]->file), *chosen[i], stages[i], command));
    }
    std::vector<std::unique_ptr<Session>> sessions;
    // Two: one copies while the other computes.
    for (int i = 0; i < (setup.throughput ? 2 : 1); ++i) {
      sessions.push_back(
          std::make_unique<TensorRtSession>(setup.device, stages, engines, setup.log));
    }
    return sessions;
  }

 private:
  // The engine of a stage for a compute capability, preferably one built for it. Null if there is
  // none.
  const Artifact* find_engine(const Stage& stage, const std::string& precision,
                              const std::string& device) const {
    const Artifact* result = nullptr;
    for (const Artifact& engine : stage.artifacts) {
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
      return find_engine(stage, precision, device) != nullptr;
    });
  }

  const Artifact& require_engine(const Bundle& bundle, const Stage& stage,
                                 const std::string& precision, const std::string& device) const {
    if (const Artifact* engine = find_engine(stage, precision, device)) return *engine;
    std::vector<std::string> others;
    for (const Artifact& engine : stage.artifacts) {
      if (engine.kind != kind || engine.precision != precision) continue;
      std::string one = text(engine.target.value_or("any device"), " by ", engine.tool_version);
      if (std::find(others.begin(), others.end(), one) == others.end()) others.push_back(one);
    }
    if (others.empty()) static_cast<void>(artifacts(bundle, precision));  // throws
    throw unavailable_error("no ", name, " engine of ", bundle.path().string(),
                            " fits: it has engines for ", joined(others, ", "),
                            ", expected one for ", device, " by ", installed(), ": ",
                            rebuild_command(bundle, precision, device));
  }

  // The command that builds an engine for `device`.
  static std::string rebuild_command(const Bundle& bundle, const std::string& precision,
                                     const std::string& device) {
    return text("elir-build ", shell_quoted(bundle.path().string()), " ",
                kVersionCompatibility ? "--device" : "--target " + device,
                " --precision " + precision);
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
