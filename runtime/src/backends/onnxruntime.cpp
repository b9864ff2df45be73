// ONNX files on ONNX Runtime, on the CPU. Through its C API, which stays compatible between
// releases.
//
// The stages share buffers by IO binding: the bound output of one is the bound input of the next.
#include <onnxruntime_c_api.h>

#include <iterator>

#include "../error.hpp"
#include "../text.hpp"
#include "all.hpp"

namespace elir::core {
namespace {

// Null where the library is older than the header this was built with.
const OrtApi* find_api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  return found;
}
const OrtApi& api() { return *find_api(); }

// Objects of ONNX Runtime, each released by its own function.
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

// What ONNX Runtime reports.
class OrtFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void check(OrtStatus* given) {
  if (given == nullptr) return;
  const OwnedStatus status(given);
  check_memory(api().GetErrorMessage(given));
  throw OrtFailure(one_line(api().GetErrorMessage(given)));
}

// Calls a function whose last argument receives a new object.
template <typename Pointer, typename Function, typename... Arguments>
Pointer made(Function function, Arguments... arguments) {
  typename Pointer::pointer object = nullptr;
  check(function(arguments..., &object));
  return Pointer(object);
}

// One for the process, as ONNX Runtime wants it; never destroyed, since sessions of other static
// objects may outlive any of ours.
OrtEnv& environment() {
  static OrtEnv* const env = [] {
    OrtEnv* created = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "elir", &created));  // errors are returned, too
    return created;
  }();
  return *env;
}

End described_by(const OrtTypeInfo* info, const std::string& name) {
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api().CastTypeInfoToTensorInfo(info, &tensor));
  if (tensor == nullptr) return {name, "no tensor", {}};
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

// The two ends of a graph: how to ask for them.
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
  std::vector<End> seen;
  for (std::size_t i = 0; i < count; ++i) {
    char* given = nullptr;
    check(end.name(session, i, allocator, &given));
    const std::string name = given;
    check(api().AllocatorFree(allocator, given));
    seen.push_back(described_by(made<OwnedType>(end.type, session, i).get(), name));
  }
  check_ends(text(path.string(), ": its ", end.what), seen, {spec.end()});
}

Failure does_not_start(const OrtFailure& failure) {
  return unavailable_error("onnxruntime does not start: ", failure.what());
}

OwnedSession loaded(const std::filesystem::path& path, const Stage& stage, int threads) {
  try {
    environment();
  } catch (const OrtFailure& failure) {  // no file's fault
    throw does_not_start(failure);
  }
  try {
    const auto options = made<OwnedOptions>(api().CreateSessionOptions);
    check(api().SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));
    check(api().SetSessionGraphOptimizationLevel(options.get(), ORT_ENABLE_ALL));
    if (threads > 0) check(api().SetIntraOpNumThreads(options.get(), threads));
    auto session =
        made<OwnedSession>(api().CreateSession, static_cast<const OrtEnv*>(&environment()),
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
      made<OwnedMemory>(api().CreateCpuMemoryInfo, OrtArenaAllocator, OrtMemTypeDefault);
  return made<OwnedValue>(api().CreateTensorWithDataAsOrtValue,
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
      Step step;
      step.session = std::move(chain[i]);
      step.input = tensor(stages[i].input, buffers_[i]);
      step.output = tensor(stages[i].output, buffers_[i + 1]);
      step.binding = made<OwnedBinding>(api().CreateIoBinding, step.session.get());
      check(api().BindInput(step.binding.get(), stages[i].input.name.c_str(), step.input.get()));
      check(api().BindOutput(step.binding.get(), stages[i].output.name.c_str(), step.output.get()));
      steps_.push_back(std::move(step));
    }
  }

  void* input() override { return buffers_.front().data(); }
  void* output() override { return buffers_.back().data(); }

  void run() override {
    try {
      for (const Step& step : steps_) {
        check(api().RunWithBinding(step.session.get(), nullptr, step.binding.get()));
      }
    } catch (const OrtFailure& failure) {
      throw unavailable_error("onnxruntime failed: ", failure.what());
    }
  }

  std::optional<int> threads() const override {
    if (threads_ == 0) return std::nullopt;  // its own number cannot be asked for
    return threads_;
  }

 private:
  struct Step {
    OwnedSession session;
    OwnedValue input;
    OwnedValue output;
    OwnedBinding binding;
  };

  const int threads_;
  std::vector<Buffer> buffers_;  // outlive the values, which hold their addresses
  std::vector<Step> steps_;
};

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend()
      : Backend({"onnxruntime", "onnx", automatic_precisions("onnxruntime"), true}) {}

  std::optional<std::string> available() const override {
    if (find_api() != nullptr) return std::nullopt;
    return text("onnxruntime ", OrtGetApiBase()->GetVersionString(),
                " is installed, expected one of API version ", ORT_API_VERSION, " or later");
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    const auto& stages = bundle.manifest().stages;
    const auto files = artifacts(bundle, precision);
    std::vector<OwnedSession> chain;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      chain.push_back(loaded(bundle.checked_file(files[i]->file), stages[i], setup.threads));
    }
    try {
      std::vector<std::unique_ptr<Session>> opened;
      opened.push_back(
          std::make_unique<OnnxRuntimeSession>(stages, std::move(chain), setup.threads));
      return opened;
    } catch (const OrtFailure& failure) {
      throw does_not_start(failure);
    }
  }
};

}  // namespace

const Backend& onnxruntime_backend() {
  static const OnnxRuntimeBackend made;
  return made;
}

}  // namespace elir::core
