// Runs ONNX graphs on ONNX Runtime, on the CPU. Uses its C API, which is compatible between
// releases.
//
// Stages share buffers by IO binding: the output of one is the input of the next.
#include <onnxruntime_c_api.h>

#include <iterator>

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
  const char* what;
  decltype(OrtApi::SessionGetInputCount) count;
  decltype(OrtApi::SessionGetInputName) name;
  decltype(OrtApi::SessionGetInputTypeInfo) type;
};

void check_graph(const std::filesystem::path& path, const Getters& end, const TensorSpec& spec,
                 const OrtSession* session) {
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
  check_ends(text(path.string(), ": its ", end.what), ends, {spec.end()});
}

Failure does_not_start(const OrtFailure& failure) {
  return unavailable_error("onnxruntime does not start: ", failure.what());
}

OwnedSession load_stage(const std::filesystem::path& path, const Stage& stage, int threads) {
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
    auto session =
        create<OwnedSession>(api().CreateSession, static_cast<const OrtEnv*>(&environment()),
                             path.c_str(), static_cast<const OrtSessionOptions*>(options.get()));
    check_graph(path,
                {"input", api().SessionGetInputCount, api().SessionGetInputName,
                 api().SessionGetInputTypeInfo},
                stage.input, session.get());
    check_graph(path,
                {"output", api().SessionGetOutputCount, api().SessionGetOutputName,
                 api().SessionGetOutputTypeInfo},
                stage.output, session.get());
    return session;
  } catch (const OrtFailure& failure) {
    throw bundle_error(path.string(), " cannot be loaded by onnxruntime ",
                       OrtGetApiBase()->GetVersionString(), ": ", failure.what());
  }
}

OwnedValue tensor(const TensorSpec& spec, const Buffer& buffer) {
  const auto memory =
      create<OwnedMemory>(api().CreateCpuMemoryInfo, OrtArenaAllocator, OrtMemTypeDefault);
  return create<OwnedValue>(api().CreateTensorWithDataAsOrtValue,
                            static_cast<const OrtMemoryInfo*>(memory.get()), buffer.data(),
                            spec.bytes(), std::begin(spec.shape), std::size(spec.shape),
                            spec.dtype == Dtype::uint8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
}

class OnnxRuntimeSession final : public Session {
 public:
  OnnxRuntimeSession(const std::vector<Stage>& stages, std::vector<OwnedSession> chain, int threads)
      : threads_(threads) {
    buffers_.emplace_back(stages.front().input.bytes());
    for (std::size_t i = 0; i < chain.size(); ++i) {
      buffers_.emplace_back(stages[i].output.bytes());
      BoundStage bound;
      bound.session = std::move(chain[i]);
      bound.input = tensor(stages[i].input, buffers_[i]);
      bound.output = tensor(stages[i].output, buffers_[i + 1]);
      bound.binding = create<OwnedBinding>(api().CreateIoBinding, bound.session.get());
      check(api().BindInput(bound.binding.get(), stages[i].input.name.c_str(), bound.input.get()));
      check(
          api().BindOutput(bound.binding.get(), stages[i].output.name.c_str(), bound.output.get()));
      stages_.push_back(std::move(bound));
    }
  }

  void* input() override { return buffers_.front().data(); }
  void* output() override { return buffers_.back().data(); }

  void run() override {
    try {
      for (const BoundStage& bound : stages_) {
        check(api().RunWithBinding(bound.session.get(), nullptr, bound.binding.get()));
      }
    } catch (const OrtFailure& failure) {
      throw unavailable_error("onnxruntime failed: ", failure.what());
    }
  }

  std::optional<int> threads() const override {
    if (threads_ == 0) return std::nullopt;  // its default is unknown
    return threads_;
  }

 private:
  struct BoundStage {
    OwnedSession session;
    OwnedValue input;
    OwnedValue output;
    OwnedBinding binding;
  };

  const int threads_;
  std::vector<Buffer> buffers_;  // must outlive the values, which refer to them
  std::vector<BoundStage> stages_;
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
    const auto& stages = bundle.manifest().stages;
    const auto files = artifacts(bundle, precision);
    std::vector<OwnedSession> chain;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      chain.push_back(load_stage(bundle.checked_file(files[i]->file), stages[i], setup.threads));
    }
    try {
      std::vector<std::unique_ptr<Session>> sessions;
      sessions.push_back(
          std::make_unique<OnnxRuntimeSession>(stages, std::move(chain), setup.threads));
      return sessions;
    } catch (const OrtFailure& failure) {
      throw does_not_start(failure);
    }
  }
};

}  // namespace

const Backend& onnxruntime_backend() {
  static const OnnxRuntimeBackend backend;
  return backend;
}

}  // namespace elir::core
