#include "backlog.hpp"

namespace elir::gstreamer {

std::optional<std::int64_t> Backlog::arrive(std::int64_t time, std::int64_t duration,
                                            std::int64_t now) {
  const bool first = !idle_since_;
  if (duration <= 0 && !first) duration = time - previous_time_;
  previous_time_ = time;
  const std::int64_t wait = first ? 0 : *idle_since_ - (time + delay_);
  if (wait <= 0) delay_ = now - time;
  if (wait <= 0 || wait < duration) {
    drops_ = 0;
    return std::nullopt;
  }
  if (drops_help(wait, duration)) return wait - duration;
  delay_ = now - time;
  drops_ = 0;
  return std::nullopt;
}

// Each dropped frame shortens the wait by up to its duration, until the source has no newer one.
// Where the wait stays as it is, the source itself has become later.
bool Backlog::drops_help(std::int64_t wait, std::int64_t duration) {
  // Over eight frames the jitter of cameras and networks averages out; and where dropping is of no
  // use, eight are a third of a second, once.
  constexpr int kPatience = 8;
  if (drops_ == kPatience) {
    // A source that is only jittery shortens the wait by several durations meanwhile, one that has
    // become later by none: half a duration is far from both.
    if (first_wait_ - wait < duration / 2) return false;
    drops_ = 0;
  }
  if (drops_ == 0) first_wait_ = wait;
  ++drops_;
  return true;
}

bool Latency::add(std::int64_t took, std::int64_t duration) {
  if (new_size_) {
    new_size_ = false;
    return false;
  }
  // Over about eight frames, so that one that was interrupted is no reason for a new latency.
  mean_ = mean_ == 0 ? took : mean_ + (took - mean_) / 8;
  if (mean_ <= limit_) return false;
  // With half as much again, slow growth changes it a few times and not with every frame.
  limit_ = mean_ + mean_ / 2;
  // An element that does not keep pace also lets frames wait, for up to their duration.
  value_ = limit_ + (limit_ > duration ? duration : 0);
  return true;
}

}  // namespace elir::gstreamer
