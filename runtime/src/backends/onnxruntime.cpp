// Runs ONNX graphs on ONNX Runtime, on the CPU. Uses its C API, which is compatible between
// releases.
//
// Stages share buffers by IO binding: the output of one is the input of the next.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "../detector_graph.hpp"
#include "../error.hpp"
#include "../text.hpp"
#include "all.hpp"

namespace elir::core {
namespace {

// Null if the library is older than the header.
const OrtApi* find_api() {
  static const OrtApi* const table = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  return table;
}
const OrtApi& api() { return *find_api(); }

// Owning pointers to ONNX Runtime's objects.
template <auto Release>
struct Deleter {
  template <typename Object>
  void operator()(Object* object) const {
    (api().*Release)(object);
  }
};
template <typename Object, auto Release>
using Owned = std::unique_ptr<Object, Deleter<Release>>;

using OwnedStatus = Owned<OrtStatus, &OrtApi::ReleaseStatus>;
using OwnedSession = Owned<OrtSession, &OrtApi::ReleaseSession>;
using OwnedOptions = Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>;
using OwnedMemory = Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>;
using OwnedValue = Owned<OrtValue, &OrtApi::ReleaseValue>;
using OwnedBinding = Owned<OrtIoBinding, &OrtApi::ReleaseIoBinding>;
using OwnedType = Owned<OrtTypeInfo, &OrtApi::ReleaseTypeInfo>;

// An error that ONNX Runtime reports.
class OrtFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void check(OrtStatus* error) {
  if (error == nullptr) return;
  const OwnedStatus status(error);
  check_memory(api().GetErrorMessage(error));
  throw OrtFailure(one_line(api().GetErrorMessage(error)));
}

// Calls a function whose last argument receives a new object.
template <typename Pointer, typename Function, typename... Arguments>
Pointer create(Function function, Arguments... arguments) {
  typename Pointer::pointer object = nullptr;
  check(function(arguments..., &object));
  return Pointer(object);
}

// ONNX Runtime requires one per process. Never destroyed, since static objects may own sessions.
OrtEnv& environment() {
  static OrtEnv* const env = [] {
    OrtEnv* created = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "elir", &created));  // errors are returned
    return created;
  }();
  return *env;
}

End read_end(const OrtTypeInfo* info, const std::string& name) {
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api().CastTypeInfoToTensorInfo(info, &tensor));
  if (tensor == nullptr) return {name, "not a tensor", {}};
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api().GetTensorElementType(tensor, &type));
  std::size_t count = 0;
  check(api().GetDimensionsCount(tensor, &count));
  std::vector<std::int64_t> sides(count);
  check(api().GetDimensions(tensor, sides.data(), count));
  return {name,
          type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8   ? "uint8"
          : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? "float32"
                                                        : "another type",
          sides};
}

// The functions that describe a graph's inputs or outputs.
struct Getters {
  decltype(OrtApi::SessionGetInputCount) count;
  decltype(OrtApi::SessionGetInputName) name;
  decltype(OrtApi::SessionGetInputTypeInfo) type;
};

std::vector<End> read_ends(const Getters& end, const OrtSession* session) {
  OrtAllocator* allocator = nullptr;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  std::size_t count = 0;
  check(end.count(session, &count));
  std::vector<End> ends;
  for (std::size_t i = 0; i < count; ++i) {
    char* allocated = nullptr;
    check(end.name(session, i, allocator, &allocated));
    const std::string name = allocated;
    check(api().AllocatorFree(allocator, allocated));
    ends.push_back(read_end(create<OwnedType>(end.type, session, i).get(), name));
  }
  return ends;
}

Failure does_not_start(const OrtFailure& failure) {
  return unavailable_error("onnxruntime does not start: ", failure.what());
}

// Calls `check_loaded` with the inputs and outputs of what was loaded.
template <typename Check>
OwnedSession load(const std::filesystem::path& path, int threads, const std::string& precision,
                  const Check& check_loaded) {
  try {
    environment();
  } catch (const OrtFailure& failure) {  // not the file's fault
    throw does_not_start(failure);
  }
  try {
    const auto options = create<OwnedOptions>(api().CreateSessionOptions);
    check(api().SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));
    check(api().SetSessionGraphOptimizationLevel(options.get(), ORT_ENABLE_ALL));
    if (threads > 0) check(api().SetIntraOpNumThreads(options.get(), threads));
    if (precision == "w8") {  // else weights are dequantised at every run, not once
      check(api().AddSessionConfigEntry(options.get(), "session.disable_quant_qdq", "1"));
    }
    auto session =
        create<OwnedSession>(api().CreateSession, static_cast<const OrtEnv*>(&environment()),
                             path.c_str(), static_cast<const OrtSessionOptions*>(options.get()));
    const GraphEnds ends{read_ends({api().SessionGetInputCount, api().SessionGetInputName,
                                    api().SessionGetInputTypeInfo},
                                   session.get()),
                         read_ends({api().SessionGetOutputCount, api().SessionGetOutputName,
                                    api().SessionGetOutputTypeInfo},
                                   session.get())};
    check_loaded(ends);
    return session;
  } catch (const OrtFailure& failure) {
    throw bundle_error(path.string(), " cannot be loaded by onnxruntime ",
                       OrtGetApiBase()->GetVersionString(), ": ", failure.what());
  }
}

OwnedValue tensor(const TensorSpec& spec, const Shape& shape, void* data) {
  const auto memory =
      create<OwnedMemory>(api().CreateCpuMemoryInfo, OrtArenaAllocator, OrtMemTypeDefault);
  const auto sides = spec.sides(shape);
  return create<OwnedValue>(api().CreateTensorWithDataAsOrtValue,
                            static_cast<const OrtMemoryInfo*>(memory.get()), data,
                            spec.bytes(shape), sides.data(), sides.size(),
                            spec.dtype == Dtype::uint8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
}

class OnnxRuntimeTensors final : public HostTensors {
 public:
  OnnxRuntimeTensors(const std::vector<Stage>& stages, const std::vector<OwnedSession>& chain,
                     const Shape& shape)
      : HostTensors(stages, shape) {
    for (std::size_t i = 0; i < chain.size(); ++i) {
      BoundStage bound;
      bound.session = chain[i].get();
      bound.binding = create<OwnedBinding>(api().CreateIoBinding, bound.session);
      const auto bind = [&](auto function, const TensorSpec& spec, void* data) {
        bound.values.push_back(tensor(spec, shape, data));
        check(function(bound.binding.get(), spec.name.c_str(), bound.values.back().get()));
      };
      bind(api().BindInput, stages[i].input, between(i));
      if (stages[i].noise) bind(api().BindInput, *stages[i].noise, noise());
      bind(api().BindOutput, stages[i].output, between(i + 1));
      stages_.push_back(std::move(bound));
    }
  }

  void run() override {
    try {
      for (const BoundStage& bound : stages_) {
        check(api().RunWithBinding(bound.session, nullptr, bound.binding.get()));
      }
    } catch (const OrtFailure& failure) {
      throw unavailable_error("onnxruntime failed: ", failure.what());
    }
  }

 private:
  struct BoundStage {
    OrtSession* session;
    std::vector<OwnedValue> values;
    OwnedBinding binding;
  };

  std::vector<BoundStage> stages_;
};

// Whether an image of a batch gets the bytes that it gets alone. Threads divide the pixels of a
// single image, but the images of a batch, and the order of a convolution's sums depends on the
// number of pixels. Not so in blocks of channels (NCHWc), which float32 has on this processor.
bool are_batches_exact(const std::string& precision) {
#if defined(__x86_64__) || defined(_M_X64)
  return precision == "fp32";
#else
  static_cast<void>(precision);
  return false;
#endif
}

class OnnxRuntimeSession final : public Session {
 public:
  OnnxRuntimeSession(const Manifest& manifest, std::vector<OwnedSession> chain,
                     const std::string& precision, int threads)
      : manifest_(manifest),
        chain_(std::move(chain)),
        exact_batches_(are_batches_exact(precision)),
        threads_(threads) {}

  bool exact_batches() const override { return exact_batches_; }

  std::optional<int> threads() const override {
    if (threads_ == 0) return std::nullopt;  // its default is unknown
    return threads_;
  }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    try {
      return std::make_unique<OnnxRuntimeTensors>(manifest_.stages, chain_, shape);
    } catch (const OrtFailure& failure) {
      throw does_not_start(failure);
    }
  }

  const Manifest& manifest_;
  std::vector<OwnedSession> chain_;
  const bool exact_batches_;
  const int threads_;
};

// Shapes to try graphs of several sizes with, the smallest first; of one size, none: squares that
// divide all sides, and the smallest shape. In squares of twice the strides nothing has one pixel,
// which would fit anything.
std::vector<Shape> trial_shapes(const Manifest& manifest) {
  const auto& shapes = manifest.shapes;
  if (shapes.size() == 1) return {};
  std::int64_t common = 0;
  for (const Shape& shape : shapes) {
    common = std::gcd(common, std::gcd(shape.padded_height, shape.padded_width));
  }
  std::int64_t side = 2;
  for (const Stage& stage : manifest.stages) {
    const std::int64_t noise = stage.noise ? stage.noise->stride : 1;
    side = std::lcm(side, 2 * std::lcm(noise, stage.output.stride));
  }
  std::vector<Shape> trials;
  for (; common % side == 0; side *= 2) trials.push_back({1, side, side, side, side});
  const auto pixels = [](const Shape& shape) { return shape.padded_height * shape.padded_width; };
  trials.push_back(*std::min_element(
      shapes.begin(), shapes.end(),
      [&](const Shape& one, const Shape& other) { return pixels(one) < pixels(other); }));
  trials.back().batch = 1;
  return trials;
}

// Runs a small picture: only that shows whether free dimensions fit together. Throws a bundle error
// if they do not.
void try_out(const Bundle& bundle, const std::vector<OwnedSession>& chain) {
  std::string reason;
  for (const Shape& shape : trial_shapes(bundle.manifest())) {
    try {
      OnnxRuntimeTensors(bundle.manifest().stages, chain, shape).run();
      return;
    } catch (const std::runtime_error& error) {
      reason = error.what();
    }
  }
  if (reason.empty()) return;
  throw bundle_error(bundle.path().string(), ": its graphs do not fit its manifest: ", reason);
}

class OnnxRuntimeDetector final : public DetectorNetwork {
 public:
  OnnxRuntimeDetector(OwnedSession session, const Detector& detector)
      : session_(std::move(session)), detector_(detector) {}

  std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                  std::int64_t width) override {
    const TensorSpec spec{detector_.input, Dtype::float32, Layout::nchw, 3, 1};
    try {
      const OwnedValue input = tensor(spec, {1, height, width, height, width}, picture);
      std::vector<const char*> names;
      for (const auto& [name, meaning] : detector_.outputs) names.push_back(name.c_str());
      std::vector<OrtValue*> values(names.size(), nullptr);
      values_.clear();
      values_.reserve(values.size());
      const char* const input_name = spec.name.c_str();
      const OrtValue* const input_value = input.get();
      OrtStatus* const error = api().Run(session_.get(), nullptr, &input_name, &input_value, 1,
                                         names.data(), names.size(), values.data());
      for (OrtValue* const value : values) values_.emplace_back(value);
      check(error);
      return read_outputs();
    } catch (const OrtFailure& failure) {
      throw unavailable_error("onnxruntime failed in the face detector: ", failure.what());
    }
  }

 private:
  std::vector<DetectorOutput> read_outputs() const {
    std::vector<DetectorOutput> outputs;
    for (const auto& [name, meaning] : detector_.outputs) {
      OrtValue* const value = values_[outputs.size()].get();
      const auto type = create<OwnedType>(api().GetTypeInfo, static_cast<const OrtValue*>(value));
      void* data = nullptr;
      check(api().GetTensorMutableData(value, &data));
      outputs.push_back({read_end(type.get(), name), data});
    }
    return outputs;
  }

  OwnedSession session_;
  const Detector& detector_;
  std::vector<OwnedValue> values_;
};

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend()
      : Backend({"onnxruntime", "onnx", automatic_precisions("onnxruntime"), true}) {}

  std::optional<std::string> available() const override {
    if (find_api() != nullptr) return std::nullopt;
    return text("onnxruntime ", OrtGetApiBase()->GetVersionString(),
                " is installed, expected one with API version ", ORT_API_VERSION, " or later");
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    const Manifest& manifest = bundle.manifest();
    const auto files = artifacts(bundle, precision);
    std::vector<OwnedSession> chain;
    for (std::size_t i = 0; i < files.size(); ++i) {
      const auto path = bundle.checked_file(files[i]->file);
      chain.push_back(load(path, setup.threads, precision, [&](const GraphEnds& ends) {
        check_ends(path.string() + ": its", ends, manifest.stages[i].ends(manifest.graph_shape()));
      }));
    }
    try_out(bundle, chain);
    std::vector<std::unique_ptr<Session>> sessions;
    sessions.push_back(
        std::make_unique<OnnxRuntimeSession>(manifest, std::move(chain), precision, setup.threads));
    return sessions;
  }

  std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                 const Setup& setup) const override {
    if (const auto reason = available()) throw unavailable_error(*reason);
    const Detector& detector = detector_of(bundle);
    const auto path = detector_file(bundle);
    return std::make_unique<OnnxRuntimeDetector>(
        load(path, setup.threads, "fp32",
             [&](const GraphEnds& ends) { check_detector_ends(path, detector, ends); }),
        detector);
  }
};

}  // namespace

const Backend& onnxruntime_backend() {
  static const OnnxRuntimeBackend backend;
  return backend;
}

}  // namespace elir::core
