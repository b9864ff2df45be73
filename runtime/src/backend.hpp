// The interface of backends, which run the stages of a bundle on a device.
#pragma once

#include <elir/elir.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "text.hpp"

namespace elir::core {

// Zeroed memory, aligned for vector instructions.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes);
  void* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(void* data) const;
  };
  std::unique_ptr<void, Free> data_;
};

// The input, noise and output of a run: the same memory in every run. The caller may overwrite all
// of them between runs.
class Tensors {
 public:
  Tensors() = default;
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;
  virtual ~Tensors() = default;

  virtual void* input() = 0;
  virtual void* noise() = 0;  // null if no stage has that input
  virtual void* output() = 0;

  // Computes the output. Throws an unavailable error if the device fails.
  virtual void run() = 0;

  // Computes an output for each image of the batch, from and to images in device memory that pass
  // Session::check_device_image; null: input() and output() in host memory.
  virtual void run_images(const elir_image* inputs, const elir_image* outputs);

  // Whether run_images() reads noise(); if not, the noise of its last run is used again.
  virtual bool reads_noise() const { return true; }
};

// Tensors in host memory.
class HostTensors : public Tensors {
 public:
  HostTensors(const std::vector<Stage>& stages, const Shape& shape);

  void* input() final { return chain_.front().data(); }
  void* noise() final { return noise_ ? noise_->data() : nullptr; }
  void* output() final { return chain_.back().data(); }

 protected:
  // The output of stage `i` - 1, which is the input of stage `i`.
  void* between(std::size_t i) { return chain_[i].data(); }

 private:
  std::vector<Buffer> chain_;
  std::optional<Buffer> noise_;
};

// A bundle's stages loaded on a backend. One thread at a time.
class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  // The tensors of a shape of the manifest, with its batch or a smaller one. Tensors that were used
  // before are still there.
  Tensors& tensors(const Shape& shape);

  // Whether each size of a batch is worth its memory; if not, only the largest and 1 are.
  virtual bool any_batch() const { return true; }

  // Whether an image of a batch gets the bytes that it gets alone; if not, images run one by one.
  virtual bool exact_batches() const { return true; }

  // Whether Tensors::run_images() works.
  virtual bool has_device() const { return false; }

  // Throws an image error unless an image is in the memory of the session's device. Several threads
  // at a time.
  virtual void check_device_image(const elir_image& /*image*/, const char* /*what*/) const {}

  // CPU threads of a run; none if unknown or on a GPU.
  virtual std::optional<int> threads() const { return std::nullopt; }

 private:
  // Throws an unavailable error if the device or its memory does not allow it.
  virtual std::unique_ptr<Tensors> allocate(const Shape& shape) = 0;

  std::map<std::array<std::int64_t, 3>, std::unique_ptr<Tensors>> tensors_;
};

// An output of a face detector's network.
struct DetectorOutput {
  End end;
  const void* data;
};

struct PictureSize {
  std::int64_t height;
  std::int64_t width;
};

// The network of a bundle's face detector. One thread at a time.
class DetectorNetwork {
 public:
  DetectorNetwork() = default;
  DetectorNetwork(const DetectorNetwork&) = delete;
  DetectorNetwork& operator=(const DetectorNetwork&) = delete;
  virtual ~DetectorNetwork() = default;

  // Sizes of the pictures that it takes; empty: any multiples of what the detector needs.
  virtual std::vector<PictureSize> sizes() const { return {}; }

  // The size of the smallest picture that it takes and that holds another; none: there is none.
  std::optional<PictureSize> size_for(const PictureSize& other) const;

  // Runs on a picture of 3 x height x width values from 0 to 255. The outputs are valid until the
  // next run. Throws an unavailable error if the device fails.
  virtual std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                          std::int64_t width) = 0;
};

struct Log {
  elir_log_callback callback = nullptr;
  void* user = nullptr;

  void warn(const std::string& message) const { write(ELIR_LOG_WARNING, message); }
  void info(const std::string& message) const { write(ELIR_LOG_INFO, message); }

 private:
  void write(elir_log_level level, const std::string& message) const {
    if (callback == nullptr) return;
    char line[2048];
    write_line(message, line, sizeof line);
    callback(user, level, line);
  }
};

// Options for sessions.
struct Setup {
  int threads = 0;          // per run; 0: the library decides
  int device = 0;           // number of the GPU
  std::string device_name;  // of OpenVINO's, in capitals; empty: none is named
  bool throughput = false;  // several sessions, if that gives more images per second
  // Folder that caches compiled models; none: the user's; empty: no cache.
  std::optional<std::string> cache;
  Log log;
};

// Properties of a backend.
struct Capabilities {
  std::string name;                     // as elir_params.backend takes it
  std::string kind;                     // of the artifacts it loads
  std::vector<std::string> precisions;  // supported, best first
  bool automatic;                       // whether "auto" may choose it
};

// The precisions of `backend` in the order of "auto", best first.
std::vector<std::string> automatic_precisions(const std::string& backend);

// The precisions of a device with a name, best first.
std::vector<std::string> precisions_on_named_devices();

class Backend : public Capabilities {
 public:
  explicit Backend(Capabilities capabilities) : Capabilities(std::move(capabilities)) {}
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  // The same backend on a device that has a name; available() tells if it is there. Throws a usage
  // error if its devices have numbers.
  virtual std::unique_ptr<const Backend> on_device(const std::string& device) const;

  // Why the backend cannot be used on this machine, and what to do; none: it can.
  virtual std::optional<std::string> available() const = 0;

  // Why this machine cannot run `precision`; none: it can. Requires an available backend.
  virtual std::optional<std::string> unsupported(const std::string& /*precision*/) const {
    return std::nullopt;
  }

  // Whether an artifact can be loaded on this machine.
  virtual bool can_load(const Artifact& artifact) const {
    return artifact.kind == kind && !artifact.target;
  }

  // Loads all stages: one session, or with `throughput` the number with the most images per second.
  // Throws an unavailable error (the device) or a bundle error (a file).
  virtual std::vector<std::unique_ptr<Session>> open(const Bundle& bundle,
                                                     const std::string& precision,
                                                     const Setup& setup) const = 0;

  // Loads the bundle's face detector, which runs in float32. Throws a bundle error (the file), or
  // an unavailable error: the backend runs no detectors, or not here.
  virtual std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                         const Setup& setup) const;

  // The precisions for which the bundle has every stage, best first.
  virtual std::vector<std::string> held_precisions(const Bundle& bundle) const;

  // The artifact of each stage. Throws a bundle error if a stage has none.
  std::vector<const Artifact*> artifacts(const Bundle& bundle, const std::string& precision) const;

 private:
  const Artifact* find_artifact(const Stage& stage, const std::string& precision) const;
};

// The precision of the files that `precision` is run from: fp32 for bf16.
const std::string& file_precision(const std::string& precision);

}  // namespace elir::core
