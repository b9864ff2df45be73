// Engines on TensorRT, or on TensorRT-RTX, which has the same interface: this file is compiled
// against one of the two.
//
// One run copies the image in, lets every engine queue its work, and copies the result out, all on
// one stream; the tensors between engines stay on the device. The second run is captured as a CUDA
// graph, and from then on a run is one launch.
#include <NvInfer.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>

#include "../error.hpp"
#include "../messages.hpp"
#include "../text.hpp"
#include "all.hpp"
#include "cuda.hpp"

namespace elir::core {
namespace {

#ifdef ELIR_WITH_TENSORRT_RTX
constexpr const char* kName = "tensorrt-rtx";
constexpr bool kLaterReleases = false;  // its engines fit one release
const std::vector<std::string> kPrecisions = {"fp16", "fp32", "int8"};
#else
constexpr const char* kName = "tensorrt";
constexpr bool kLaterReleases = true;
const std::vector<std::string> kPrecisions = {"int8", "fp16", "fp32"};
#endif

// TensorRT says in its log what is wrong, and gives null.
class EngineLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(mutex_);
    try {
      last_ = message;
    } catch (...) {  // out of memory: a message less
    }
  }
  std::string last() {
    const std::lock_guard lock(mutex_);
    return last_.empty() ? "no reason given" : one_line(last_);
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

// One for the process, since TensorRT keeps the first it was given.
EngineLog& engine_log() {
  static auto* const log = new EngineLog;
  return *log;
}

struct Release {
  int major;
  int minor;
  int patch;
};
bool operator==(const Release& a, const Release& b) {
  return a.major == b.major && a.minor == b.minor && a.patch == b.patch;
}
bool operator<(const Release& a, const Release& b) {
  return std::tie(a.major, a.minor, a.patch) < std::tie(b.major, b.minor, b.patch);
}

Release release_of(const std::string& version) {
  Release made{};
  std::istringstream stream(version);
  char dot = 0;
  stream >> made.major >> dot >> made.minor >> dot >> made.patch;
  return made;
}

// Whether an engine is for GPUs of a compute capability. Hardware-compatible ones are for all of one
// capability since TensorRT 10.9; before, for all from Ampere on, but for Jetsons, where NVIDIA
// supports none.
bool is_for(const Artifact& artifact, const std::string& device) {
  constexpr Release kSameCapabilitySince{10, 9, 0};
  constexpr int kAmpere = 80;
  const std::string jetson = "sm87";
  const std::string targets = "+" + artifact.target.value_or(device) + "+";
  if (targets.find("+" + device + "+") != std::string::npos) return true;
  return artifact.kind == "tensorrt" && artifact.hardware_compatible &&
         release_of(artifact.tool_version) < kSameCapabilitySince && device != jetson &&
         artifact.target != jetson && std::stoi(device.substr(2)) >= kAmpere;
}

// Version-compatible engines run under the next major version, too. After 8 that is 10: 9 was for
// few platforms.
bool in_reach(const Release& made, const Release& later) {
  return made < later && later.major <= (made.major == 8 ? 10 : made.major + 1);
}

// The number is 10200 for 10.2.0 and was 8601 for 8.6.1.
Release installed() {
  const int number = getInferLibVersion();
  if (number < 10000) return {number / 1000, number / 100 % 10, number % 100};
  return {number / 10000, number / 100 % 100, number % 100};
}

std::string written(const Release& release) {
  return text(release.major, ".", release.minor, ".", release.patch);
}

// Why an engine does not fit a device and the library, or none.
std::optional<std::string> misfit(const Artifact& artifact, const std::string& device) {
  if (!is_for(artifact, device)) {
    return message("engine_of_device", {{"target", *artifact.target}, {"device", device}});
  }
  const Release made = release_of(artifact.tool_version);
  if (made == installed()) return std::nullopt;
  if (kLaterReleases && artifact.version_compatible && in_reach(made, installed())) {
    return std::nullopt;
  }
  return message("engine_of_release", {{"tool", artifact.tool},
                                       {"version", artifact.tool_version},
                                       {"library", text(kName, " ", written(installed()))}});
}

const char* type_name(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    default:
      return "another type";
  }
}

// "image: uint8 1x64x64x3"
std::string described(const nvinfer1::ICudaEngine& engine, const char* name) {
  const nvinfer1::Dims shape = engine.getTensorShape(name);
  std::vector<std::string> sides;
  for (int i = 0; i < shape.nbDims; ++i) sides.push_back(std::to_string(shape.d[i]));
  return text(name, ": ", type_name(engine.getTensorDataType(name)), " ", joined(sides, "x"));
}

std::string described(const TensorSpec& spec) {
  std::vector<std::string> sides;
  for (const std::int64_t side : spec.shape) sides.push_back(std::to_string(side));
  return text(spec.name, ": ", spec.dtype == Dtype::uint8 ? "uint8" : "float32", " ",
              joined(sides, "x"));
}

void check_end(const std::filesystem::path& path, const nvinfer1::ICudaEngine& engine,
               nvinfer1::TensorIOMode mode, const char* what, const TensorSpec& spec) {
  std::vector<std::string> seen;
  for (int i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* const name = engine.getIOTensorName(i);
    if (engine.getTensorIOMode(name) == mode) seen.push_back(described(engine, name));
  }
  const std::string wanted = described(spec);
  if (seen == std::vector<std::string>{wanted}) return;
  throw bundle_error(
      message("engine_end", {{"path", path.string()},
                             {"end", what},
                             {"seen", seen.empty() ? message("graph_end_missing") : joined(seen, ", ")},
                             {"wanted", wanted}}));
}

// Released in the opposite order.
struct Engine {
  std::shared_ptr<nvinfer1::IRuntime> runtime;
  std::shared_ptr<nvinfer1::ICudaEngine> engine;
};

Engine loaded(const std::filesystem::path& path, const Stage& stage) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> content{std::istreambuf_iterator<char>(file),
                                  std::istreambuf_iterator<char>()};
  Engine made;
  made.runtime.reset(nvinfer1::createInferRuntime(engine_log()));
  if (!made.runtime) throw unavailable_error(text(kName, ": ", engine_log().last()));
  made.engine.reset(made.runtime->deserializeCudaEngine(content.data(), content.size()));
  if (!made.engine) {
    throw bundle_error(text(path.string(), " cannot be loaded by ", kName, " ",
                            written(installed()), ": ", engine_log().last()));
  }
  check_end(path, *made.engine, nvinfer1::TensorIOMode::kINPUT, "input", stage.input);
  check_end(path, *made.engine, nvinfer1::TensorIOMode::kOUTPUT, "output", stage.output);
  return made;
}

class TensorRtSession final : public Session {
 public:
  TensorRtSession(int device, const std::vector<Stage>& stages, const std::vector<Engine>& engines)
      : device_(device),
        input_bytes_(stages.front().input.bytes()),
        output_bytes_(stages.back().output.bytes()),
        input_(pinned_memory(input_bytes_)),
        output_(pinned_memory(output_bytes_)),
        stream_(new_stream()) {
    buffers_.push_back(device_memory(input_bytes_));
    for (std::size_t i = 0; i < stages.size(); ++i) {
      buffers_.push_back(device_memory(stages[i].output.bytes()));
      Step step{engines[i], nullptr};
      step.context.reset(engines[i].engine->createExecutionContext());
      if (!step.context ||
          !step.context->setTensorAddress(stages[i].input.name.c_str(), buffers_[i].get()) ||
          !step.context->setTensorAddress(stages[i].output.name.c_str(), buffers_[i + 1].get())) {
        throw unavailable_error(text(kName, ": ", engine_log().last()));
      }
      steps_.push_back(std::move(step));
    }
  }

  ~TensorRtSession() override {
    static_cast<void>(cudaSetDevice(device_));
    static_cast<void>(cudaStreamSynchronize(stream_.get()));
  }

  void* input() override { return input_.get(); }
  void* output() override { return output_.get(); }

  void run() override {
    check_cuda(cudaSetDevice(device_), "cudaSetDevice");  // this thread may be new
    // Not the first: an engine may then prepare itself, which no graph can hold.
    if (runs_ < 2 && runs_++ == 1) capture();
    if (graph_) {
      check_cuda(cudaGraphLaunch(graph_.get(), stream_.get()), "cudaGraphLaunch");
    } else {
      enqueue();
    }
    check_cuda(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  }

 private:
  struct Step {
    Engine engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
  };

  void enqueue() {
    check_cuda(cudaMemcpyAsync(buffers_.front().get(), input_.get(), input_bytes_,
                               cudaMemcpyHostToDevice, stream_.get()),
               "cudaMemcpyAsync");
    for (const Step& step : steps_) {
      if (!step.context->enqueueV3(stream_.get())) {
        throw unavailable_error(
            message("backend_failed", {{"library", kName}, {"reason", engine_log().last()}}));
      }
    }
    check_cuda(cudaMemcpyAsync(output_.get(), buffers_.back().get(), output_bytes_,
                               cudaMemcpyDeviceToHost, stream_.get()),
               "cudaMemcpyAsync");
  }

  // Makes a run one launch; where that fails, runs go on without.
  void capture() {
    cudaGraph_t captured = nullptr;
    try {
      check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
                 "cudaStreamBeginCapture");
      enqueue();
      check_cuda(cudaStreamEndCapture(stream_.get(), &captured), "cudaStreamEndCapture");
      const Graph graph(captured);
      cudaGraphExec_t exec = nullptr;
      check_cuda(cudaGraphInstantiateWithFlags(&exec, graph.get(), 0), "cudaGraphInstantiate");
      graph_.reset(exec);
    } catch (const Failure&) {
      abandon_capture();
    }
  }

  // What began must end, or the stream takes nothing any more.
  void abandon_capture() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream_.get(), &status) == cudaSuccess &&
        status != cudaStreamCaptureStatusNone) {
      cudaGraph_t captured = nullptr;
      static_cast<void>(cudaStreamEndCapture(stream_.get(), &captured));
      const Graph graph(captured);
    }
    static_cast<void>(cudaGetLastError());
  }

  int device_;
  std::size_t input_bytes_;
  std::size_t output_bytes_;
  PinnedMemory input_;
  PinnedMemory output_;
  std::vector<DeviceMemory> buffers_;
  Stream stream_;
  std::vector<Step> steps_;
  GraphExec graph_;
  int runs_ = 0;  // up to 2
};

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend() : Backend({kName, kName, kPrecisions, true}) {}

  std::optional<std::string> available() const override { return missing_cuda_device(); }

  // Engines for other devices are told of when one is opened, since only that says what to do.
  bool takes(const Artifact& artifact) const override { return artifact.kind == kind; }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    if (const auto reason = available()) {
      throw unavailable_error(message("cannot_use", {{"backend", name}, {"reason", *reason}}));
    }
    check_cuda(cudaSetDevice(setup.device), "cudaSetDevice");
    const std::string device = capability(setup.device);
    const auto& stages = bundle.manifest().stages;
    std::vector<Engine> engines;
    for (const Stage& stage : stages) {
      const Artifact& chosen = fitting(stage, precision, device);
      engines.push_back(loaded(bundle.checked_file(chosen.file), stage));
    }
    std::vector<std::unique_ptr<Session>> made;
    // Two side by side: one copies while the other computes.
    for (int i = 0; i < (setup.throughput ? 2 : 1); ++i) {
      made.push_back(std::make_unique<TensorRtSession>(setup.device, stages, engines));
    }
    return made;
  }

 private:
  const Artifact& fitting(const Stage& stage, const std::string& precision,
                          const std::string& device) const {
    std::vector<std::string> reasons;
    for (const Artifact& artifact : stage.artifacts) {
      if (artifact.kind != kind || artifact.precision != precision) continue;
      const auto reason = misfit(artifact, device);
      if (!reason) return artifact;
      reasons.push_back(artifact.file + ": " + *reason);
    }
    if (reasons.empty()) {
      throw bundle_error(text(stage.name, " has no ", precision, " ", kind, " file"));
    }
    throw unavailable_error(
        text("no ", name, " engine fits: ", joined(reasons, "; "), ": make one with elir-build"));
  }
};

}  // namespace

#ifdef ELIR_WITH_TENSORRT_RTX
Backends make_tensorrt_rtx_backends() {
#else
Backends make_tensorrt_backends() {
#endif
  Backends made;
  made.push_back(std::make_unique<TensorRtBackend>());
  return made;
}

}  // namespace elir::core
