// When the frames of a live source come faster than they are restored: which of them are dropped,
// and the latency that the element reports. Times are in nanoseconds.
#pragma once

#include <cstdint>
#include <optional>

namespace elir::gstreamer {

// Finds frames that have waited so long that there is a newer one. A frame has waited for the
// element if the element was still busy when the frame was due. When it was due does not follow
// from its timestamp alone, because cameras, networks and decoders add delays that nobody reports:
// those of the last frame that did not wait are assumed.
class Backlog {
 public:
  // Called for each frame. `time` is the running time of the frame, `now` that of the clock;
  // `duration` is 0 if it is unknown. Returns by how much the frame has waited longer than its
  // duration, if it has: it is to be dropped then.
  std::optional<std::int64_t> arrive(std::int64_t time, std::int64_t duration, std::int64_t now);

  // Called when the element is done with the frame, dropped or not.
  void finish(std::int64_t now) { idle_since_ = now; }

  void reset() { *this = Backlog(); }

 private:
  bool drops_help(std::int64_t wait, std::int64_t duration);

  std::optional<std::int64_t> idle_since_;
  std::int64_t delay_ = 0;          // from the running time of a frame to when it is due
  std::int64_t previous_time_ = 0;  // of the previous frame
  std::int64_t first_wait_ = 0;     // of the first of `drops_`
  int drops_ = 0;                   // in a row, since it was last looked whether they help
};

// The latency of the element, from measured times. It only grows, because each change interrupts
// what is played.
class Latency {
 public:
  // Adds the time that a frame took. Returns true if the latency has changed.
  bool add(std::int64_t took, std::int64_t duration);

  // The next frame takes longer, because memory is allocated and models are compiled for its size.
  void expect_new_size() {
    new_size_ = true;
    mean_ = 0;
  }

  std::int64_t value() const { return value_; }

 private:
  bool new_size_ = true;
  std::int64_t mean_ = 0;  // of the last frames, exponentially weighted
  std::int64_t limit_ = 0;
  std::int64_t value_ = 0;
};

}  // namespace elir::gstreamer
