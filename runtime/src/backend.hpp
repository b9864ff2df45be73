// What a backend is: something that runs the stages of a bundle on a device.
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

// Zeroed memory, aligned as vector instructions like it.
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

// A bundle's stages, ready to run one image at a time. One thread at a time.
class Session {
 public:
  Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  virtual ~Session() = default;

  // Of the bundle's input and output spec; the same memory at every run. What stands in `output`
  // may be written between runs.
  virtual void* input() = 0;
  virtual void* output() = 0;

  // Computes the output from the input. Throws an unavailable error where the device fails.
  virtual void run() = 0;

  // Processor threads a run uses; none where it uses the GPU, or the library does not tell.
  virtual std::optional<int> threads() const { return std::nullopt; }
};

struct Log {
  elir_log_callback callback = nullptr;
  void* user = nullptr;

  void warn(const std::string& message) const { say(ELIR_LOG_WARNING, message); }
  void info(const std::string& message) const { say(ELIR_LOG_INFO, message); }

 private:
  void say(elir_log_level level, const std::string& message) const {
    if (callback == nullptr) return;
    char line[2048];
    write_line(message, line, sizeof line);
    callback(user, level, line);
  }
};

// How to open a bundle.
struct Setup {
  int threads = 0;  // of one run; 0 leaves it to the library
  int device = 0;
  bool throughput = false;  // several sessions, where that gives more images in a second
  // The folder for what is compiled: none for the user's own, an empty one to keep nothing.
  std::optional<std::string> cache;
  Log log;
};

// What a backend says of itself.
struct Capabilities {
  std::string name;                     // as elir_params.backend takes it
  std::string kind;                     // of the files it loads
  std::vector<std::string> precisions;  // it can run, best first
  bool automatic;                       // whether "auto" may choose it
};

// Of what "auto" prefers, those that `backend` runs in, best first.
std::vector<std::string> automatic_precisions(const std::string& backend);

class Backend : public Capabilities {
 public:
  explicit Backend(Capabilities capabilities) : Capabilities(std::move(capabilities)) {}
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  // None if this machine has what it takes, else why not and what to do about it.
  virtual std::optional<std::string> available() const = 0;

  // None if this machine can run in `precision`, else why not. Asked where it is available.
  virtual std::optional<std::string> unsupported(const std::string& /*precision*/) const {
    return std::nullopt;
  }

  // Whether a file can be loaded on this machine.
  virtual bool takes(const Artifact& artifact) const {
    return artifact.kind == kind && !artifact.target;
  }

  // Loads all stages: one session, or with `throughput` as many as it runs best at a time.
  // Throws an unavailable error (the device) or a bundle error (a file).
  virtual std::vector<std::unique_ptr<Session>> open(const Bundle& bundle,
                                                     const std::string& precision,
                                                     const Setup& setup) const = 0;

  // The precisions for which the bundle holds every stage, best first.
  virtual std::vector<std::string> held_precisions(const Bundle& bundle) const;

  // The file of each stage. Throws a bundle error where one has none.
  std::vector<const Artifact*> artifacts(const Bundle& bundle, const std::string& precision) const;

 private:
  const Artifact* fitting(const Stage& stage, const std::string& precision) const;
};

// Of the files that are loaded to run in `precision`: bf16 is made of fp32 files.
const std::string& file_precision(const std::string& precision);

}  // namespace elir::core
