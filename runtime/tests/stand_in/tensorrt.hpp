// State of a stand-in for TensorRT: the failures that tests choose, and calls.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

struct StandInTensorRt {
  // Heights and widths of the engines' profiles, and their largest batch.
  struct {
    int height;
    int width;
  } profiles[2] = {{32, 32}, {0, 0}};
  int profile_count = 1;
  int batch = 1;
  // Heights and widths of the profiles of engines whose files begin with "detector", which compute
  // what the reference detector does, and its landmarks.
  struct {
    int height;
    int width;
  } detector_profiles[3] = {{960, 1280}, {1280, 960}, {1280, 1280}};
  std::array<std::array<double, 2>, 5> landmarks{};
  const char* detector_input = "input.1";
  bool open_profiles = false;    // which also take smaller pictures
  bool unknown_outputs = false;  // whose size depends on the values

  bool noise = false;   // a second input, of stride 8 and 16 channels
  bool floats = false;  // image and result, in planes; such an engine does not run

  const char* refusal = nullptr;  // logged by failing calls; empty: no message
  bool enqueue_fails = false;
  bool no_memory_in_capture = false;
  bool capturable = true;
  bool linear = true;
  bool on_device = true;
  bool host_code = false;  // allowed by the last runtime
  int enqueued = 0;
  int contexts = 0;                // that live
  std::vector<std::uint8_t> seen;  // the image of the last run
};
