// The GStreamer element by itself, fed frame by frame.
#pragma once

#include <gst/check/gstharness.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "gstreamer_support.hpp"
#include "support.hpp"

namespace elir::test {

using Pixels = std::vector<std::uint8_t>;

constexpr GstClockTime kFrame = 40 * GST_MSECOND;

// The element between two pads, PLAYING, on a clock that stands still.
class Harness {
 public:
  explicit Harness(Owned<GstElement> element) : bus_(gst_bus_new()), element_(std::move(element)) {
    gst_element_set_bus(element_.get(), bus_.get());
    harness_ = gst_harness_new_with_element(element_.get(), "sink", "src");
    gst_harness_use_testclock(harness_);
  }
  ~Harness() {
    gst_element_set_bus(element_.get(), nullptr);
    gst_harness_teardown(harness_);
  }
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;

  GstHarness* get() const { return harness_; }
  GstElement* element() const { return element_.get(); }
  GstBus* bus() const { return bus_.get(); }
  GstPad* pad(const char* name) const { return pad_of(element_.get(), name); }

  void set_caps(const GstVideoInfo& info) {
    in_ = info;
    GST_VIDEO_INFO_FPS_N(&in_) = 25;
    GST_VIDEO_INFO_FPS_D(&in_) = 1;
    gst_harness_set_src_caps(harness_, gst_video_info_to_caps(&in_));
  }

  GstFlowReturn push(Owned<GstBuffer> buffer) {
    GST_BUFFER_PTS(buffer.get()) = kFrame * count_++;
    GST_BUFFER_DURATION(buffer.get()) = kFrame;
    return gst_harness_push(harness_, buffer.release());
  }
  GstFlowReturn push(const Pixels& pixels) { return push(buffer_of(in_, pixels)); }
  Owned<GstBuffer> pull() { return Owned<GstBuffer>(gst_harness_try_pull(harness_)); }

  guint64 counter(const char* name) const {
    guint64 value = 0;
    g_object_get(element_.get(), name, &value, nullptr);
    return value;
  }

 private:
  Owned<GstBus> bus_;
  Owned<GstElement> element_;
  GstHarness* harness_ = nullptr;
  GstVideoInfo in_{};
  GstClockTime count_ = 0;
};

class ElementTest : public ::testing::Test {
 protected:
  std::string bundle(const BundleOptions& options = {}) {
    const auto path = folder_.path() / std::to_string(++count_);
    write_bundle(path, options);
    return path.string();
  }

  Folder folder_;
  int count_ = 0;
};

}  // namespace elir::test
