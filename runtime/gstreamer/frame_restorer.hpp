// A bundle that restores frames, by the C API.
#pragma once

#include <elir/elir.h>

#include <cstdint>
#include <optional>
#include <string>

namespace elir::gstreamer {

// Which faces are restored: by default all if the bundle has a face detector, as ELIR_FACES_AUTO
// says, and else the frame as a whole. The others have the values of elir_faces.
constexpr int kFacesDefault = -1;

struct Settings {
  std::string bundle;
  std::string backend = "auto";
  std::string precision;  // empty: the fastest that the bundle allows by default
  int device = 0;
  std::string device_name;  // of OpenVINO's, such as GPU.1; empty: none is named
  int faces = kFacesDefault;
  double strength = 1;
  double sigma_s = -1;     // -1: the bundle's
  std::int64_t seed = -1;  // -1: the bundle's
};

struct Failure {
  elir_status status;
  std::string message;
};

class FrameRestorer {
 public:
  FrameRestorer() = default;
  ~FrameRestorer() { close(); }
  FrameRestorer(const FrameRestorer&) = delete;
  FrameRestorer& operator=(const FrameRestorer&) = delete;

  // `log` gets what libelir logs, with `user`, until the restorer is closed.
  std::optional<Failure> open(const Settings& settings, elir_log_callback log, void* user);
  void close();
  bool is_open() const { return restorer_ != nullptr; }

  // Factor from the width and height of a frame to its result's.
  int upscale() const { return upscale_; }

  std::optional<Failure> restore(const elir_image& input, const elir_image& output);

 private:
  std::optional<Failure> choose_faces(const Settings& settings,
                                      const elir_description& description);

  elir_restorer* restorer_ = nullptr;
  int upscale_ = 1;
  std::optional<elir_faces> faces_;  // none: the frame as a whole
};

}  // namespace elir::gstreamer
