// ONNX files on OpenVINO, on the CPU. The same way to read, rewrite and set up a model as the
// Python runtime's, so that both give the same bytes.
//
// The stages share buffers: what one writes is what the next reads, and nothing is copied between
// them.
//
// A compiled model is kept in the user's cache folder, in the same file as the Python runtime's. It
// is kept here and not by OpenVINO's own cache, which takes a file with a flipped bit for good.
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

// OpenVINO's core, one for the process and never destroyed: each gives the thread that makes it a
// stack for signals, and of two that go in the order they came, the second would put back the
// first one's.
ov::Core& core() {
  static auto* made = new ov::Core;
  return *made;
}

ov::frontend::FrontEndManager& frontends() {
  static auto* made = new ov::frontend::FrontEndManager;
  return *made;
}

std::string one_line_of(const std::exception& error) {
  // "Exception from src/inference/src/cpp/core.cpp:84:", once for every caller, says nothing.
  static const std::regex noise(
      R"(Exception from \S{1,300}:\d{1,9}:|Check '[^\n]{0,500}' failed at \S{1,300}:\d{1,9}:)");
  const std::string text = std::string(error.what()).substr(0, 4000);
  return one_line(std::regex_replace(text, noise, ""));
}

// What `body` gives; where OpenVINO fails in it, `refusal` makes a Failure of the reason.
template <typename Body, typename Refusal>
auto asked(const Body& body, const Refusal& refusal) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {  // neither the file's fault nor the device's
    throw;
  } catch (const std::exception& error) {
    check_memory(error.what());
    throw refusal(one_line_of(error));
  }
}

Failure does_not_start(const std::string& reason) {
  return unavailable_error("openvino does not start: ", reason);
}

template <typename Property>
auto processor(const Property& property) {
  return asked([&] { return core().get_property(kDevice, property); }, does_not_start);
}

// Without the instructions, OpenVINO emulates them, slowly.
bool has_bfloat16() {
  const auto found = processor(ov::device::capabilities);
  return std::find(found.begin(), found.end(), "BF16") != found.end();
}

// What operators in floating point compute in. Of fp16 only the weights are float16.
const char* float_type(const std::string& precision) {
  const bool reduced = precision == "bf16" || precision == "int8";
  return reduced && has_bfloat16() ? "bf16" : "f32";
}

// `Core::read_model` would hand a damaged file to the readers of all other formats, which print.
std::shared_ptr<ov::Model> read(const std::filesystem::path& path) {
  return asked(
      [&] {
        const auto reader = frontends().load_by_framework("onnx");
        return reader->convert(reader->load(path.string()));
      },
      [&](const std::string& reason) {
        return bundle_error(path.string(), " cannot be loaded by openvino ",
                            ov::get_openvino_version().buildNumber, ": ", reason);
      });
}

// What is done to a model before it is compiled; the number of Python's module, whose compiled
// models these are.
constexpr int kRewriting = 1;

// The constant that an input takes, before its conversion to another type; null if it is none.
std::shared_ptr<ov::op::v0::Constant> constant(const ov::Node& node, std::size_t port) {
  std::shared_ptr<ov::Node> source = node.get_input_node_shared_ptr(port);
  while (std::string(source->get_type_name()) == "Convert") {
    source = source->get_input_node_shared_ptr(0);
  }
  return ov::as_type_ptr<ov::op::v0::Constant>(source);
}

// `values` times a scale, as NumPy has it: rounded to the wider of the two types.
std::shared_ptr<ov::op::v0::Constant> scaled(const ov::op::v0::Constant& values,
                                             const ov::op::v0::Constant& scale) {
  std::vector<float> made = values.cast_vector<float>();
  for (float& value : made) value *= scale.cast_vector<float>().front();
  const bool half =
      values.get_element_type() == ov::element::f16 && scale.get_element_type() == ov::element::f16;
  const bool deeper = scale.get_shape().size() > values.get_shape().size();  // 1 or 1x1 to none
  return ov::op::v0::Constant::create(
      half ? ov::element::f16 : ov::element::f32,
      deeper && made.size() == 1 ? scale.get_shape() : values.get_shape(), made);
}

// The way from QuantizeLinear to DequantizeLinear that ends in `last`, from the end; null if it is
// not there.
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

// Writes each pair of QuantizeLinear and DequantizeLinear as one FakeQuantize.
//
// They compute the same. But where the pairs stay apart and the processor has no AMX, OpenVINO
// 2026.4 loses their scales in front of concatenations, and the picture with them.
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
    // Channels of their own, or a zero point: none of ours.
    if (zero_point || ov::shape_size(scale->get_shape()) != 1) continue;
    const auto joined_one = std::make_shared<ov::op::v0::FakeQuantize>(
        quantizer->input_value(0), quantizer->input_value(1), quantizer->input_value(2),
        scaled(*low, *scale), scaled(*high, *scale), quantizer->get_levels());
    node->output(0).replace(joined_one->output(0));
  }
}

// The ends of a model; one that has the name `expected` among others is told by it.
std::vector<End> ends(const std::vector<ov::Output<const ov::Node>>& ports,
                      const std::string& expected) {
  std::vector<End> seen;
  for (const auto& port : ports) {
    // An operator that does nothing leaves its name to what it read.
    const auto& names = port.get_names();
    const auto type = port.get_element_type();
    seen.push_back(
        {names.count(expected) > 0 ? expected : joined({names.begin(), names.end()}, "/"),
         type == ov::element::u8    ? "uint8"
         : type == ov::element::f32 ? "float32"
                                    : "another type",
         {}});
    for (const ov::Dimension& side : port.get_partial_shape())
      seen.back().sides.push_back(side.is_static() ? side.get_length() : -1);
  }
  return seen;
}

ov::Tensor tensor(const TensorSpec& spec, const Buffer& buffer) {
  const ov::Shape shape(std::begin(spec.shape), std::end(spec.shape));
  return {spec.dtype == Dtype::uint8 ? ov::element::u8 : ov::element::f32, shape, buffer.data()};
}

// A stage ready to run.
struct Loaded {
  std::shared_ptr<const MappedFile> content;  // that the weights may lie in; null: in none
  ov::CompiledModel model;
};
using Chain = std::vector<Loaded>;

// Compiled models --------------------------------------------------------------------------------

// What is said of everything that fails here, which is nobody's call.
void warn(const Log& log, const std::string& reason) {
  log.warn(text(reason, "; so compiled models are not kept and every start takes longer"));
}

// Where what is compiled from one file, for this processor and OpenVINO, is kept; none where
// nothing is to be kept, or there is no place for it.
std::optional<std::filesystem::path> place_of(const Artifact& artifact, const char* float_type,
                                              const Setup& setup) {
  if (setup.cache && setup.cache->empty()) return std::nullopt;
  try {
    if (cache_limit() == 0) return std::nullopt;
    std::vector<std::string> parts = processor(ov::device::capabilities);
    std::sort(parts.begin(), parts.end());
    const std::string maker =
        text(kRewriting, "\n", processor(ov::device::full_name), "\n", joined(parts, "\n"));
    Sha256 hash;
    hash.update(maker.data(), maker.size());
    const std::string version = std::regex_replace(
        std::string(ov::get_openvino_version().buildNumber), std::regex("[^A-Za-z0-9_.-]"), "-");
    return cache_folder(setup.cache) / "openvino" / version / artifact.sha256 /
           text(float_type, ".", hash.finish().substr(0, 16), ".blob");
  } catch (const CacheFailure& failure) {
    warn(setup.log, failure.what());
    return std::nullopt;
  }
}

Loaded imported(const Sealed& sealed, const ov::AnyMap& config) {
#if OPENVINO_VERSION_MAJOR * 100 + OPENVINO_VERSION_MINOR >= 202503
  // It is taken from memory, and its weights stay there.
  const ov::Tensor content(ov::element::u8, {sealed.size}, sealed.file->data());
  return {sealed.file, core().import_model(content, kDevice, config)};
#else
  std::istringstream content(
      std::string(reinterpret_cast<const char*>(sealed.file->data()), sealed.size));
  return {nullptr, core().import_model(content, kDevice, config)};
#endif
}

// What is kept in `place`, if it is whole.
std::optional<Loaded> recalled(const std::filesystem::path& place, const ov::AnyMap& config,
                               const Log& log) {
  const Sealed sealed = read_sealed(place);
  if (sealed.damaged) log.info(place.string() + " is damaged, and compiled anew");
  if (!sealed.file) return std::nullopt;
  try {
    Loaded found = imported(sealed, config);
    log.info("compiled before: " + place.string());
    return found;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {  // what OpenVINO asks for beside its version
    log.info(text(place.string(), " is refused, and compiled anew: ", one_line_of(error)));
    return std::nullopt;
  }
}

void keep(ov::CompiledModel& compiled, const std::filesystem::path& place, const Setup& setup) {
  const Log& log = setup.log;
  try {
    write_sealed(place, [&](std::ostream& file) { compiled.export_model(file); });
    log.info("compiled, and kept: " + place.string());
    trim_cache(cache_folder(setup.cache), place);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const CacheFailure& failure) {
    warn(log, failure.what());
  } catch (const std::exception& error) {
    warn(log, text("openvino cannot export what it compiled: ", one_line_of(error)));
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
    asked(
        [&] {
          for (ov::InferRequest& request : requests_) request.infer();
        },
        [](const std::string& reason) { return unavailable_error("openvino failed: ", reason); });
  }

  std::optional<int> threads() const override {
    int most = 0;
    for (const Loaded& loaded : chain_) {
      most = std::max(most, loaded.model.get_property(ov::inference_num_threads));
    }
    return most;
  }

 private:
  // These outlive the requests, which hold addresses into them.
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
          asked([] { return core().get_available_devices(); }, does_not_start);
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
    const ov::AnyMap config = configured(precision, setup);
    Chain chain;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      chain.push_back(loaded(bundle.checked_file(files[i]->file), stages[i],
                             place_of(*files[i], float_type(precision), setup), config, setup));
    }
    return asked(
        [&] {
          std::uint32_t concurrency = 1;
          for (const Loaded& each : chain) {
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
  static ov::AnyMap configured(const std::string& precision, const Setup& setup) {
    ov::AnyMap config = {{"INFERENCE_PRECISION_HINT", float_type(precision)},
                         {"PERFORMANCE_HINT", setup.throughput ? "THROUGHPUT" : "LATENCY"}};
    if (!setup.throughput) config["NUM_STREAMS"] = 1;
    if (setup.threads > 0) config["INFERENCE_NUM_THREADS"] = setup.threads;
    return config;
  }

  // The stage in `path` for `config`, from the cache if it is there, else kept in it.
  static Loaded loaded(const std::filesystem::path& path, const Stage& stage,
                       const std::optional<std::filesystem::path>& place, const ov::AnyMap& config,
                       const Setup& setup) {
    std::optional<Loaded> kept;
    if (place) kept = recalled(*place, config, setup.log);
    Loaded ready = kept ? *std::move(kept) : Loaded{nullptr, compiled(path, config)};
    check_ends(path.string() + ": its input", ends(ready.model.inputs(), stage.input.name),
               {stage.input.end()});
    check_ends(path.string() + ": its output", ends(ready.model.outputs(), stage.output.name),
               {stage.output.end()});
    if (place && !kept) keep(ready.model, *place, setup);
    return ready;
  }

  static ov::CompiledModel compiled(const std::filesystem::path& path, const ov::AnyMap& config) {
    const std::shared_ptr<ov::Model> model = read(path);
    return asked(
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
  static const OpenVinoBackend made;
  return made;
}

}  // namespace elir::core
