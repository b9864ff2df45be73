// The interface of backends, which run the stages of a bundle on a device.
#pragma once

#include <elir/elir.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
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

// A bundle's stages loaded on a backend, one image at a time. One thread at a time.
class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  // The input and output tensors: the same memory in every run. The caller may overwrite both
  // between runs.
  virtual void* input() = 0;
  virtual void* output() = 0;

  // Computes the output from the input. Throws an unavailable error if the device fails.
  virtual void run() = 0;

  // CPU threads of a run; none if unknown or on a GPU.
  virtual std::optional<int> threads() const { return std::nullopt; }
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
  int threads = 0;  // per run; 0: the library decides
  int device = 0;
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

class Backend : public Capabilities {
 public:
  explicit Backend(Capabilities capabilities) : Capabilities(std::move(capabilities)) {}
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

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
