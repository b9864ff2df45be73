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
  constexpr int kPatience = 8;  // frames, over which jitter averages out
  if (drops_ == kPatience) {
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
  mean_ = mean_ == 0 ? took : mean_ + (took - mean_) / 8;
  if (mean_ <= limit_) return false;
  limit_ = mean_ + mean_ / 2;
  // An element that does not keep pace also lets frames wait, for up to their duration.
  value_ = limit_ + (limit_ > duration ? duration : 0);
  return true;
}

}  // namespace elir::gstreamer
