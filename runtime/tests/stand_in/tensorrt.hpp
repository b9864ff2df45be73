// State of a stand-in for TensorRT: the failures that tests choose, and calls.
#pragma once

struct StandInTensorRt {
  const char* refusal = nullptr;  // logged by failing calls; empty: no message
  bool enqueue_fails = false;
  bool no_memory_in_capture = false;
  bool capturable = true;
  bool linear = true;
  bool on_device = true;
  bool host_code = false;  // allowed by the last runtime
  int enqueued = 0;
};
