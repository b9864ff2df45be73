// Runs ONNX graphs on OpenVINO, on the CPU or on a device of that name. Reads, rewrites and
// configures a model as the Python runtime does, so that both compute the same bytes.
//
// Stages share buffers: the output of one is the input of the next.
// Models compiled for the CPU are cached in the same files as the Python runtime's. OpenVINO's own
// cache is not used, since it accepts a file with a flipped bit.
#include <algorithm>
#include <mutex>
#include <regex>
#include <sstream>

#include "../cache.hpp"
#include "../error.hpp"
#include "../sha256.hpp"
#include "../text.hpp"
#include "all.hpp"
#include "openvino_device.hpp"

namespace elir::core {
namespace {

constexpr const char* kFloatType = "INFERENCE_PRECISION_HINT";

// A compiled stage.
struct LoadedStage {
  std::shared_ptr<const MappedFile> content;  // the file with the weights, if mapped; or null
  ov::CompiledModel model;
};
using Chain = std::vector<LoadedStage>;

// Single images of the first shape: what every bundle is opened with.
Shape first_shape(const Manifest& manifest) {
  Shape shape = manifest.shapes.front();
  shape.batch = 1;
  return shape;
}

// Compiled models --------------------------------------------------------------------------------

// Logs a failure of the cache, which is not an error.
void warn_not_cached(const Log& log, const std::string& reason) {
  log.warn(text(reason, "; compiled models are not cached, and every start takes longer"));
}

// Path in the cache of the model of a `kind` compiled from an artifact by this OpenVINO for this
// processor; none if it is not to be cached.
std::optional<std::filesystem::path> cache_path(const Artifact& artifact, const std::string& kind,
                                                const OpenVinoDevice& device, const Setup& setup) {
  if (!device.is_cpu() || (setup.cache && setup.cache->empty())) return std::nullopt;
  try {
    if (cache_limit() == 0) return std::nullopt;
    const std::string compiler = text(kRewriting, "\n", device.property(ov::device::full_name),
                                      "\n", joined(device.capabilities(), "\n"));
    Sha256 hash;
    hash.update(compiler.data(), compiler.size());
    const std::string version = std::regex_replace(
        std::string(ov::get_openvino_version().buildNumber), std::regex("[^A-Za-z0-9_.-]"), "-");
    return cache_folder(setup.cache) / "openvino" / version / artifact.sha256 /
           text(kind, ".", hash.finish().substr(0, 16), ".blob");
  } catch (const CacheFailure& failure) {
    warn_not_cached(setup.log, failure.what());
    return std::nullopt;
  }
}

LoadedStage import_model(const Sealed& sealed, const ov::AnyMap& config) {
#if OPENVINO_VERSION_MAJOR * 100 + OPENVINO_VERSION_MINOR >= 202503
  // The weights stay in the mapped file.
  const ov::Tensor content(ov::element::u8, {sealed.size}, sealed.file->data());
  return {sealed.file, core().import_model(content, kCpu, config)};
#else
  std::istringstream content(
      std::string(reinterpret_cast<const char*>(sealed.file->data()), sealed.size));
  return {nullptr, core().import_model(content, kCpu, config)};
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

// The stages, each compiled for a shape when that is first used. For several threads.
class Models {
 public:
  Models(const Bundle& bundle, const std::vector<const Artifact*>& files,
         const OpenVinoDevice& device, const ov::AnyMap& config, const Setup& setup)
      : bundle_(bundle), files_(files), device_(device), config_(config), setup_(setup) {}

  const Manifest& manifest() const { return bundle_.manifest(); }
  const OpenVinoDevice& device() const { return device_; }

  const Chain& of(const Shape& shape) {
    const std::lock_guard lock(mutex_);
    Chain& chain = compiled_[{shape.padded_height, shape.padded_width, shape.batch}];
    if (!chain.empty()) return chain;
    Chain loaded;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      loaded.push_back(load(*files_[i], manifest().stages[i].ends(shape)));
    }
    return chain = std::move(loaded);
  }

 private:
  // Loads a stage from the cache or, if it is not there, compiles and caches it.
  LoadedStage load(const Artifact& artifact, const GraphEnds& expected) {
    const auto path = bundle_.checked_file(artifact.file);
    std::string kind = config_.at(kFloatType).as<std::string>();
    if (manifest().shapes.size() > 1 || manifest().shapes.front().batch > 1) {
      std::vector<std::string> sides;
      for (const auto side : expected.inputs.front().sides) sides.push_back(std::to_string(side));
      kind += "." + joined(sides, "x");
    }
    const auto cache_file = cache_path(artifact, kind, device_, setup_);
    std::optional<LoadedStage> cached;
    if (cache_file) cached = read_cached(*cache_file, config_, setup_.log);
    LoadedStage ready = cached ? *std::move(cached) : LoadedStage{nullptr, compile(path, expected)};
    check_ends(path.string() + ": its",
               {read_ends(ready.model.inputs(), expected.inputs),
                read_ends(ready.model.outputs(), expected.outputs)},
               expected);
    if (cache_file && !cached) write_cached(ready.model, *cache_file, setup_);
    return ready;
  }

  ov::CompiledModel compile(const std::filesystem::path& path, const GraphEnds& ends) const {
    const std::shared_ptr<ov::Model> model = read_model(path);
    return call_openvino(
        [&] {
          std::map<std::string, ov::PartialShape> shapes;
          for (const End& end : ends.inputs) {
            shapes[end.name] = std::vector<ov::Dimension>(end.sides.begin(), end.sides.end());
          }
          if (model->is_dynamic()) model->reshape(shapes);
          return core().compile_model(model, device_.name, config_);
        },
        [&](const std::string& reason) {
          return unavailable_error("openvino cannot run ", path.string(), ": ", reason);
        });
  }

  const Bundle& bundle_;
  std::vector<const Artifact*> files_;
  OpenVinoDevice device_;
  ov::AnyMap config_;
  Setup setup_;
  std::mutex mutex_;
  std::map<std::array<std::int64_t, 3>, Chain> compiled_;
};

class OpenVinoTensors final : public HostTensors {
 public:
  OpenVinoTensors(const std::vector<Stage>& stages, const Chain& chain, const Shape& shape)
      : HostTensors(stages, shape), chain_(chain) {
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      const Stage& stage = stages[i];
      ov::InferRequest request = chain_[i].model.create_infer_request();
      request.set_tensor(stage.input.name, tensor(stage.input, shape, between(i)));
      if (stage.noise) request.set_tensor(stage.noise->name, tensor(*stage.noise, shape, noise()));
      request.set_output_tensor(tensor(stage.output, shape, between(i + 1)));
      requests_.push_back(std::move(request));
    }
  }

  void run() override {
    call_openvino(
        [&] {
          for (ov::InferRequest& request : requests_) request.infer();
        },
        [](const std::string& reason) { return unavailable_error("openvino failed: ", reason); });
  }

 private:
  Chain chain_;  // must outlive the requests, which refer to it
  std::vector<ov::InferRequest> requests_;
};

class OpenVinoSession final : public Session {
 public:
  explicit OpenVinoSession(std::shared_ptr<Models> models) : models_(std::move(models)) {}

  // With several threads, the kernel of a transposed convolution depends on the batch.
  bool exact_batches() const override { return false; }

  std::optional<int> threads() const override {
    if (!models_->device().is_cpu()) return std::nullopt;
    int most = 0;
    for (const LoadedStage& loaded : models_->of(first_shape(models_->manifest()))) {
      most = std::max(most, loaded.model.get_property(ov::inference_num_threads));
    }
    return most;
  }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    const Chain& chain = models_->of(shape);
    return call_openvino(
        [&] { return std::make_unique<OpenVinoTensors>(models_->manifest().stages, chain, shape); },
        openvino_does_not_start);
  }

  std::shared_ptr<Models> models_;
};

class OpenVinoBackend final : public Backend {
 public:
  explicit OpenVinoBackend(OpenVinoDevice device = {})
      : Backend({"openvino", "onnx",
                 device.is_cpu() ? automatic_precisions("openvino") : precisions_on_named_devices(),
                 true}),
        device_(std::move(device)) {}

  std::unique_ptr<const Backend> on_device(const std::string& device) const override {
    return std::make_unique<OpenVinoBackend>(OpenVinoDevice{device});
  }

  std::optional<std::string> available() const override { return device_.missing(); }

  std::optional<std::string> unsupported(const std::string& precision) const override {
    return device_.unsupported(precision);
  }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    const auto models = std::make_shared<Models>(bundle, artifacts(bundle, precision), device_,
                                                 make_config(precision, setup), setup);
    const Chain& chain = models->of(first_shape(bundle.manifest()));
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
            sessions.push_back(std::make_unique<OpenVinoSession>(models));
          }
          return sessions;
        },
        openvino_does_not_start);
  }

  std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                 const Setup& setup) const override {
    if (const auto reason = available()) throw unavailable_error(*reason);
    Setup latency = setup;
    latency.throughput = false;
    return open_openvino_detector(bundle, make_config("fp32", latency));
  }

 private:
  ov::AnyMap make_config(const std::string& precision, const Setup& setup) const {
    ov::AnyMap config = {{kFloatType, device_.float_type(precision)},
                         {"PERFORMANCE_HINT", setup.throughput ? "THROUGHPUT" : "LATENCY"}};
    if (device_.is_cpu()) {  // others have their own defaults, and no threads
      if (!setup.throughput) config["NUM_STREAMS"] = 1;
      if (setup.threads > 0) config["INFERENCE_NUM_THREADS"] = setup.threads;
    }
    return config;
  }

  OpenVinoDevice device_;
};

}  // namespace

const Backend& openvino_backend() {
  static const OpenVinoBackend backend;
  return backend;
}

}  // namespace elir::core
