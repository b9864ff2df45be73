// What tests see of a stand-in for TensorRT: what fails, and what was asked of it.
#pragma once

struct StandInTensorRt {
  const char* refusal = nullptr;  // logged by what then fails; empty: without a word
  bool enqueue_fails = false;
  bool no_memory_in_capture = false;
  bool capturable = true;
  bool linear = true;
  bool on_device = true;
  bool host_code = false;  // whether the last engine was allowed to bring code
  int enqueued = 0;
};
