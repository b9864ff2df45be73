// Runs ONNX graphs on OpenVINO, on the CPU. Reads, rewrites and configures a model as the Python
// runtime does, so that both compute the same bytes.
//
// Stages share buffers: the output of one is the input of the next.
// Compiled models are cached in the same files as the Python runtime's. OpenVINO's own cache is not
// used, since it accepts a file with a flipped bit.
#include <algorithm>
#include <openvino/frontend/manager.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/openvino.hpp>
#include <regex>
#include <sstream>

#include "../cache.hpp"
#include "../error.hpp"
#include "../sha256.hpp"
#include "../text.hpp"
#include "all.hpp"

namespace elir::core {
namespace {

constexpr const char* kDevice = "CPU";

// OpenVINO's core, one for the process and never destroyed: each sets a signal stack for the thread
// that creates it, and destroying two leaves a freed one in use.
ov::Core& core() {
  static auto* instance = new ov::Core;
  return *instance;
}

ov::frontend::FrontEndManager& frontends() {
  static auto* instance = new ov::frontend::FrontEndManager;
  return *instance;
}

std::string one_line_of(const std::exception& error) {
  // "Exception from src/inference/src/cpp/core.cpp:84:", once per caller.
  static const std::regex noise(
      R"(Exception from \S{1,300}:\d{1,9}:|Check '[^\n]{0,500}' failed at \S{1,300}:\d{1,9}:)");
  const std::string text = std::string(error.what()).substr(0, 4000);
  return one_line(std::regex_replace(text, noise, ""));
}

// Calls `body`; if OpenVINO fails in it, throws the Failure that `failure` creates of the reason.
template <typename Body, typename MakeFailure>
auto call_openvino(const Body& body, const MakeFailure& failure) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {  // neither the file's nor the device's fault
    throw;
  } catch (const std::exception& error) {
    check_memory(error.what());
    throw failure(one_line_of(error));
  }
}

Failure does_not_start(const std::string& reason) {
  return unavailable_error("openvino does not start: ", reason);
}

template <typename Property>
auto cpu_property(const Property& property) {
  return call_openvino([&] { return core().get_property(kDevice, property); }, does_not_start);
}

// Without these instructions, OpenVINO emulates them slowly.
bool has_bfloat16() {
  const auto names = cpu_property(ov::device::capabilities);
  return std::find(names.begin(), names.end(), "BF16") != names.end();
}

// The type that floating-point operators compute in. For fp16 only the weights are float16.
const char* float_type(const std::string& precision) {
  const bool reduced = precision == "bf16" || precision == "int8";
  return reduced && has_bfloat16() ? "bf16" : "f32";
}

// `Core::read_model` would try a damaged file with the readers of all formats, which print.
std::shared_ptr<ov::Model> read_model(const std::filesystem::path& path) {
  return call_openvino(
      [&] {
        const auto reader = frontends().load_by_framework("onnx");
        return reader->convert(reader->load(path.string()));
      },
      [&](const std::string& reason) {
        return bundle_error(path.string(), " cannot be loaded by openvino ",
                            ov::get_openvino_version().buildNumber, ": ", reason);
      });
}

// Version of the rewrites of a model before it is compiled; the same number as in Python, which
// uses the same compiled models.
constexpr int kRewriting = 1;

// The constant at an input, before conversions to other types; null if it is not a constant.
std::shared_ptr<ov::op::v0::Constant> constant(const ov::Node& node, std::size_t port) {
  std::shared_ptr<ov::Node> source = node.get_input_node_shared_ptr(port);
  while (std::string(source->get_type_name()) == "Convert") {
    source = source->get_input_node_shared_ptr(0);
  }
  return ov::as_type_ptr<ov::op::v0::Constant>(source);
}

// `values` times a scale, as in NumPy: rounded to the wider of the two types.
std::shared_ptr<ov::op::v0::Constant> multiply(const ov::op::v0::Constant& values,
                                               const ov::op::v0::Constant& scale) {
  std::vector<float> products = values.cast_vector<float>();
  for (float& value : products) value *= scale.cast_vector<float>().front();
  const bool half =
      values.get_element_type() == ov::element::f16 && scale.get_element_type() == ov::element::f16;
  const bool deeper = scale.get_shape().size() > values.get_shape().size();  // 1 or 1x1 to none
  return ov::op::v0::Constant::create(
      half ? ov::element::f16 : ov::element::f32,
      deeper && products.size() == 1 ? scale.get_shape() : values.get_shape(), products);
}

// The FakeQuantize of a Q/DQ pair that ends in `last`; null if there is no such pair.
std::shared_ptr<ov::op::v0::FakeQuantize> quantizer_before(const ov::Node& last,
                                                           const ov::Node** subtraction) {
  const ov::Node* node = &last;
  for (const char* type : {"Multiply", "Subtract", "Convert", "Convert"}) {
    if (std::string(node->get_type_name()) != type) return nullptr;
    if (std::string(type) == "Subtract") *subtraction = node;
    node = node->get_input_node_ptr(0);
  }
  return ov::as_type_ptr<ov::op::v0::FakeQuantize>(
      std::const_pointer_cast<ov::Node>(node->shared_from_this()));
}

// Replaces each Q/DQ pair by one FakeQuantize, which computes the same.
//
// Without this, OpenVINO 2026.4 loses the scales of pairs in front of concatenations on processors
// without AMX, which ruins the picture.
void join_quantizers(ov::Model& model) {
  for (const auto& node : model.get_ordered_ops()) {
    const ov::Node* subtraction = nullptr;
    const auto quantizer = quantizer_before(*node, &subtraction);
    if (!quantizer) continue;
    const auto scale = constant(*node, 1);
    const auto zero = constant(*subtraction, 1);
    const auto low = constant(*quantizer, 3);
    const auto high = constant(*quantizer, 4);
    if (!scale || !zero || !low || !high) continue;
    const std::vector<float> zeros = zero->cast_vector<float>();
    const bool zero_point = std::any_of(zeros.begin(), zeros.end(), [](float z) { return z != 0; });
    // Scales per channel or a zero point: not from elir-export.
    if (zero_point || ov::shape_size(scale->get_shape()) != 1) continue;
    const auto merged = std::make_shared<ov::op::v0::FakeQuantize>(
        quantizer->input_value(0), quantizer->input_value(1), quantizer->input_value(2),
        multiply(*low, *scale), multiply(*high, *scale), quantizer->get_levels());
    node->output(0).replace(merged->output(0));
  }
}

// The inputs or outputs of a model. One with several names gets the name `expected` if that is
// among them.
std::vector<End> read_ends(const std::vector<ov::Output<const ov::Node>>& ports,
                           const std::string& expected) {
  std::vector<End> ends;
  for (const auto& port : ports) {
    // An operator that OpenVINO removes leaves its name to its input.
    const auto& names = port.get_names();
    const auto type = port.get_element_type();
    ends.push_back(
        {names.count(expected) > 0 ? expected : joined({names.begin(), names.end()}, "/"),
         type == ov::element::u8    ? "uint8"
         : type == ov::element::f32 ? "float32"
                                    : "another type",
         {}});
    for (const ov::Dimension& side : port.get_partial_shape())
      ends.back().sides.push_back(side.is_static() ? side.get_length() : -1);
  }
  return ends;
}

ov::Tensor tensor(const TensorSpec& spec, const Buffer& buffer) {
  const ov::Shape shape(std::begin(spec.shape), std::end(spec.shape));
  return {spec.dtype == Dtype::uint8 ? ov::element::u8 : ov::element::f32, shape, buffer.data()};
}

// A compiled stage.
struct LoadedStage {
  std::shared_ptr<const MappedFile> content;  // the file with the weights, if mapped; or null
  ov::CompiledModel model;
};
using Chain = std::vector<LoadedStage>;

// Compiled models --------------------------------------------------------------------------------

// Logs a failure of the cache, which is not an error.
void warn_not_cached(const Log& log, const std::string& reason) {
  log.warn(text(reason, "; compiled models are not cached, and every start takes longer"));
}

// Path in the cache of the model compiled from an artifact by this OpenVINO for this processor;
// none if it is not to be cached.
std::optional<std::filesystem::path> cache_path(const Artifact& artifact, const char* float_type,
                                                const Setup& setup) {
  if (setup.cache && setup.cache->empty()) return std::nullopt;
  try {
    if (cache_limit() == 0) return std::nullopt;
    std::vector<std::string> parts = cpu_property(ov::device::capabilities);
    std::sort(parts.begin(), parts.end());
    const std::string compiler =
        text(kRewriting, "\n", cpu_property(ov::device::full_name), "\n", joined(parts, "\n"));
    Sha256 hash;
    hash.update(compiler.data(), compiler.size());
    const std::string version = std::regex_replace(
        std::string(ov::get_openvino_version().buildNumber), std::regex("[^A-Za-z0-9_.-]"), "-");
    return cache_folder(setup.cache) / "openvino" / version / artifact.sha256 /
           text(float_type, ".", hash.finish().substr(0, 16), ".blob");
  } catch (const CacheFailure& failure) {
    warn_not_cached(setup.log, failure.what());
    return std::nullopt;
  }
}

LoadedStage import_model(const Sealed& sealed, const ov::AnyMap& config) {
#if OPENVINO_VERSION_MAJOR * 100 + OPENVINO_VERSION_MINOR >= 202503
  // The weights stay in the mapped file.
  const ov::Tensor content(ov::element::u8, {sealed.size}, sealed.file->data());
  return {sealed.file, core().import_model(content, kDevice, config)};
#else
  std::istringstream content(
      std::string(reinterpret_cast<const char*>(sealed.file->data()), sealed.size));
  return {nullptr, core().import_model(content, kDevice, config)};
#endif
}

// Loads a compiled model from the cache, if it is there and not damaged.
std::optional<LoadedStage> read_cached(const std::filesystem::path& cache_file,
                                       const ov::AnyMap& config, const Log& log) {
  const Sealed sealed = read_sealed(cache_file);
  if (sealed.damaged) log.info(cache_file.string() + " is damaged, compiling again");
  if (!sealed.file) return std::nullopt;
  try {
    LoadedStage stage = import_model(sealed, config);
    log.info("loaded from the cache: " + cache_file.string());
    return stage;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {  // OpenVINO checks more than its version
    log.info(text(cache_file.string(),
                  " is rejected by openvino, compiling again: ", one_line_of(error)));
    return std::nullopt;
  }
}

void write_cached(ov::CompiledModel& compiled, const std::filesystem::path& cache_file,
                  const Setup& setup) {
  const Log& log = setup.log;
  try {
    write_sealed(cache_file, [&](std::ostream& file) { compiled.export_model(file); });
    log.info("compiled and cached: " + cache_file.string());
    trim_cache(cache_folder(setup.cache), cache_file);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const CacheFailure& failure) {
    warn_not_cached(log, failure.what());
  } catch (const std::exception& error) {
    warn_not_cached(log, text("openvino cannot export the compiled model: ", one_line_of(error)));
  }
}

// Running ----------------------------------------------------------------------------------------

class OpenVinoSession final : public Session {
 public:
  OpenVinoSession(const std::vector<Stage>& stages, Chain& chain) : chain_(chain) {
    buffers_.emplace_back(stages.front().input.bytes());
    for (std::size_t i = 0; i < chain.size(); ++i) {
      buffers_.emplace_back(stages[i].output.bytes());
      ov::InferRequest request = chain_[i].model.create_infer_request();
      request.set_input_tensor(tensor(stages[i].input, buffers_[i]));
      request.set_output_tensor(tensor(stages[i].output, buffers_[i + 1]));
      requests_.push_back(std::move(request));
    }
  }

  void* input() override { return buffers_.front().data(); }
  void* output() override { return buffers_.back().data(); }

  void run() override {
    call_openvino(
        [&] {
          for (ov::InferRequest& request : requests_) request.infer();
        },
        [](const std::string& reason) { return unavailable_error("openvino failed: ", reason); });
  }

  std::optional<int> threads() const override {
    int most = 0;
    for (const LoadedStage& loaded : chain_) {
      most = std::max(most, loaded.model.get_property(ov::inference_num_threads));
    }
    return most;
  }

 private:
  // These must outlive the requests, which refer to them.
  Chain chain_;
  std::vector<Buffer> buffers_;
  std::vector<ov::InferRequest> requests_;
};

class OpenVinoBackend final : public Backend {
 public:
  OpenVinoBackend() : Backend({"openvino", "onnx", automatic_precisions("openvino"), true}) {}

  std::optional<std::string> available() const override {
    try {
      const std::vector<std::string> devices =
          call_openvino([] { return core().get_available_devices(); }, does_not_start);
      if (std::find(devices.begin(), devices.end(), kDevice) != devices.end()) return std::nullopt;
      return text("the installed openvino has no ", kDevice, " plugin");
    } catch (const Failure& failure) {
      return failure.what();
    }
  }

  std::optional<std::string> unsupported(const std::string& precision) const override {
    if (precision != "bf16" || has_bfloat16()) return std::nullopt;
    return "this processor has no bf16 instructions (AVX512_BF16 or AMX_BF16): run in fp32";
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    const auto& stages = bundle.manifest().stages;
    const auto files = artifacts(bundle, precision);
    const ov::AnyMap config = make_config(precision, setup);
    Chain chain;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      chain.push_back(load_stage(bundle.checked_file(files[i]->file), stages[i],
                                 cache_path(*files[i], float_type(precision), setup), config,
                                 setup));
    }
    return call_openvino(
        [&] {
          std::uint32_t concurrency = 1;
          for (const LoadedStage& each : chain) {
            if (!setup.throughput) break;
            concurrency = std::max(concurrency,
                                   each.model.get_property(ov::optimal_number_of_infer_requests));
          }
          std::vector<std::unique_ptr<Session>> sessions;
          while (sessions.size() < concurrency) {
            sessions.push_back(std::make_unique<OpenVinoSession>(stages, chain));
          }
          return sessions;
        },
        does_not_start);
  }

 private:
  static ov::AnyMap make_config(const std::string& precision, const Setup& setup) {
    ov::AnyMap config = {{"INFERENCE_PRECISION_HINT", float_type(precision)},
                         {"PERFORMANCE_HINT", setup.throughput ? "THROUGHPUT" : "LATENCY"}};
    if (!setup.throughput) config["NUM_STREAMS"] = 1;
    if (setup.threads > 0) config["INFERENCE_NUM_THREADS"] = setup.threads;
    return config;
  }

  // Loads a stage from the cache or, if it is not there, compiles and caches it.
  static LoadedStage load_stage(const std::filesystem::path& path, const Stage& stage,
                                const std::optional<std::filesystem::path>& cache_file,
                                const ov::AnyMap& config, const Setup& setup) {
    std::optional<LoadedStage> cached;
    if (cache_file) cached = read_cached(*cache_file, config, setup.log);
    LoadedStage ready = cached ? *std::move(cached) : LoadedStage{nullptr, compile(path, config)};
    check_ends(path.string() + ": its input", read_ends(ready.model.inputs(), stage.input.name),
               {stage.input.end()});
    check_ends(path.string() + ": its output", read_ends(ready.model.outputs(), stage.output.name),
               {stage.output.end()});
    if (cache_file && !cached) write_cached(ready.model, *cache_file, setup);
    return ready;
  }

  static ov::CompiledModel compile(const std::filesystem::path& path, const ov::AnyMap& config) {
    const std::shared_ptr<ov::Model> model = read_model(path);
    return call_openvino(
        [&] {
          join_quantizers(*model);
          return core().compile_model(model, kDevice, config);
        },
        [&](const std::string& reason) {
          return unavailable_error("openvino cannot run ", path.string(), ": ", reason);
        });
  }
};

}  // namespace

const Backend& openvino_backend() {
  static const OpenVinoBackend backend;
  return backend;
}

}  // namespace elir::core
