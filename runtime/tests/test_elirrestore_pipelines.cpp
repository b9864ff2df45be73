// The GStreamer element in pipelines: states, seeks, and a live source on the real clock.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <elir/elir.hpp>
#include <map>
#include <mutex>

#include "gstreamer_support.hpp"
#include "support.hpp"

namespace elir {
namespace {

using test::Owned;
using Pixels = std::vector<std::uint8_t>;

// A source of moving pictures, the element, and a sink that keeps nothing.
class Pipeline {
 public:
  Pipeline(const std::string& source, const std::string& caps, const std::string& bundle) {
    test::use_gstreamer();
    const std::string line = "videotestsrc pattern=ball " + source + " ! video/x-raw," + caps +
                             " ! elirrestore name=element backend=reference bundle=\"" + bundle +
                             "\" ! fakesink";
    GError* error = nullptr;
    pipeline_.reset(gst_parse_launch(line.c_str(), &error));
    EXPECT_EQ(error, nullptr) << error->message;
    gst_object_ref_sink(pipeline_.get());
    bus_.reset(gst_element_get_bus(pipeline_.get()));
    element_.reset(gst_bin_get_by_name(GST_BIN(pipeline_.get()), "element"));
  }
  ~Pipeline() { EXPECT_TRUE(set(GST_STATE_NULL)); }

  GstElement* get() const { return pipeline_.get(); }
  GstElement* element() const { return element_.get(); }
  GstPad* pad(const char* name) const { return test::pad_of(element(), name); }
  guint64 counter(const char* name) const {
    guint64 value = 0;
    g_object_get(element(), name, &value, nullptr);
    return value;
  }

  // Waits until the state is reached.
  bool set(GstState state) const {
    return gst_element_set_state(get(), state) != GST_STATE_CHANGE_FAILURE &&
           gst_element_get_state(get(), nullptr, nullptr, kLongest) != GST_STATE_CHANGE_FAILURE;
  }

  bool play_to_the_end() const {
    if (!set(GST_STATE_PLAYING)) return false;
    const Owned<GstMessage> message(gst_bus_timed_pop_filtered(
        bus_.get(), kLongest, static_cast<GstMessageType>(GST_MESSAGE_EOS | GST_MESSAGE_ERROR)));
    return message != nullptr && GST_MESSAGE_TYPE(message.get()) == GST_MESSAGE_EOS;
  }

  bool seek(int first, int end) const {
    return gst_element_seek(get(), 1, GST_FORMAT_TIME,
                            static_cast<GstSeekFlags>(GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_ACCURATE),
                            GST_SEEK_TYPE_SET, first * kFrame, GST_SEEK_TYPE_SET, end * kFrame);
  }

  static constexpr gint64 kFrame = 40 * GST_MSECOND;

 private:
  static constexpr GstClockTime kLongest = 60 * GST_SECOND;

  Owned<GstElement> pipeline_;
  Owned<GstElement> element_;
  Owned<GstBus> bus_;
};

// The frames that pass a pad, by their time.
class Frames {
 public:
  explicit Frames(GstPad* pad) {
    gst_pad_add_probe(pad, GST_PAD_PROBE_TYPE_BUFFER, &Frames::pass, this, nullptr);
  }

  std::map<GstClockTime, Pixels> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::move(frames_);
  }

 private:
  static GstPadProbeReturn pass(GstPad* pad, GstPadProbeInfo* probe, gpointer user) {
    auto& self = *static_cast<Frames*>(user);
    GstBuffer* const buffer = GST_PAD_PROBE_INFO_BUFFER(probe);
    const std::lock_guard<std::mutex> lock(self.mutex_);
    self.frames_[GST_BUFFER_PTS(buffer)] = test::pixels_of(test::info_of(pad), buffer);
    return GST_PAD_PROBE_OK;
  }

  std::mutex mutex_;
  std::map<GstClockTime, Pixels> frames_;
};

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() { test::write_bundle(path()); }
  std::string path() const { return (folder_.path() / "b").string(); }

  test::Folder folder_;
};

constexpr const char* kSmall = "format=RGB,width=50,height=40,framerate=25/1";

TEST_F(PipelineTest, Seeks) {
  const Pipeline pipeline("", kSmall, path());
  Restorer restorer(path(), test::reference_params());
  Frames before(pipeline.pad("sink"));
  Frames behind(pipeline.pad("src"));
  const GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40);
  ASSERT_TRUE(pipeline.set(GST_STATE_PAUSED));
  for (const int first : {100, 0, 7}) {
    ASSERT_TRUE(pipeline.seek(first, first + 10));
    ASSERT_TRUE(pipeline.set(GST_STATE_PAUSED));
    ASSERT_TRUE(pipeline.play_to_the_end());
    const auto inputs = before.take();
    const auto results = behind.take();
    for (int i = first; i < first + 10; ++i) {
      const auto time = static_cast<GstClockTime>(i * Pipeline::kFrame);
      ASSERT_EQ(inputs.count(time), 1U) << i;
      ASSERT_EQ(results.count(time), 1U) << i;
      EXPECT_EQ(results.at(time),
                test::library_result(restorer.get(), info, inputs.at(time), info));
    }
    EXPECT_EQ(results.rbegin()->first, static_cast<GstClockTime>((first + 9) * Pipeline::kFrame));
    ASSERT_TRUE(pipeline.set(GST_STATE_PAUSED));
  }
}

TEST_F(PipelineTest, States) {
  const Pipeline pipeline("num-buffers=5", kSmall, path());
  for (const GstState state : {GST_STATE_READY, GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_NULL,
                               GST_STATE_PAUSED, GST_STATE_NULL}) {
    ASSERT_TRUE(pipeline.set(state));
  }
  for (const GstState between : {GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_NULL}) {
    ASSERT_TRUE(pipeline.set(between));
    ASSERT_TRUE(pipeline.play_to_the_end());
    EXPECT_EQ(pipeline.counter("restored"), 5U);
    ASSERT_TRUE(pipeline.set(GST_STATE_READY));
  }
}

// For the sanitized build, which finds leaks.
TEST_F(PipelineTest, StartsAHundredTimes) {
  const Pipeline pipeline("num-buffers=2", kSmall, path());
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(pipeline.play_to_the_end()) << i;
    ASSERT_TRUE(pipeline.set(i % 3 == 0 ? GST_STATE_READY : GST_STATE_NULL));
  }
}

TEST_F(PipelineTest, StopsWhileFramesPass) {
  for (int i = 0; i < 20; ++i) {
    const Pipeline pipeline("is-live=" + std::string(i % 2 == 0 ? "true" : "false"), kSmall,
                            path());
    ASSERT_TRUE(pipeline.set(GST_STATE_PLAYING));
    while (pipeline.counter("restored") < 2) g_usleep(1000);
  }
}

// Of every frame that a live source delivers, twice as many as can be restored: how long it has
// waited when it reaches the element, and whether it was restored.
class LiveFrames {
 public:
  explicit LiveFrames(const Pipeline& pipeline) : element_(pipeline.element()) {
    gst_pad_add_probe(pipeline.pad("sink"), GST_PAD_PROBE_TYPE_BUFFER, &LiveFrames::arrive, this,
                      nullptr);
    gst_pad_add_probe(pipeline.pad("src"), GST_PAD_PROBE_TYPE_BUFFER, &LiveFrames::restore, this,
                      nullptr);
  }

  std::map<GstClockTime, GstClockTime> waits;  // by the frame's time
  std::vector<GstClockTime> restored;

 private:
  static GstPadProbeReturn arrive(GstPad*, GstPadProbeInfo* probe, gpointer user) {
    auto& self = *static_cast<LiveFrames*>(user);
    const GstClockTime time = GST_BUFFER_PTS(GST_PAD_PROBE_INFO_BUFFER(probe));
    const GstClockTime now = gst_element_get_current_running_time(self.element_);
    self.waits[time] = now > time ? now - time : 0;
    return GST_PAD_PROBE_OK;
  }
  static GstPadProbeReturn restore(GstPad*, GstPadProbeInfo* probe, gpointer user) {
    static_cast<LiveFrames*>(user)->restored.push_back(
        GST_BUFFER_PTS(GST_PAD_PROBE_INFO_BUFFER(probe)));
    return GST_PAD_PROBE_OK;
  }

  GstElement* element_;
};

// Nanoseconds to restore a frame, the shortest of several times.
GstClockTime shortest_time(Restorer& restorer, int side) {
  auto pixels = test::pattern(static_cast<std::size_t>(side), static_cast<std::size_t>(side), 0);
  auto result = pixels;
  auto shortest = std::chrono::nanoseconds::max();
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    restorer.restore(test::image_of(pixels, side, side), test::image_of(result, side, side));
    shortest =
        std::min<std::chrono::nanoseconds>(shortest, std::chrono::steady_clock::now() - begin);
  }
  return static_cast<GstClockTime>(shortest.count());
}

TEST_F(PipelineTest, ALiveSourceThatIsTwiceTooFast) {
  Restorer restorer(path(), test::reference_params());
  int side = 64;
  GstClockTime shortest = 0;
  while (shortest < 20 * GST_MSECOND) shortest = shortest_time(restorer, side *= 2);
  const GstClockTime duration = shortest / 2;
  const std::string sides = "width=" + std::to_string(side) + ",height=" + std::to_string(side);
  const Pipeline pipeline(
      "is-live=true pattern=black",
      "format=BGR," + sides + ",framerate=" + std::to_string(GST_SECOND / duration) + "/1", path());
  LiveFrames frames(pipeline);
  ASSERT_TRUE(pipeline.set(GST_STATE_PLAYING));
  constexpr guint64 kEnough = 10;
  const auto begin = std::chrono::steady_clock::now();
  while (pipeline.counter("restored") < kEnough || pipeline.counter("dropped") < kEnough) {
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(200));
    g_usleep(1000);
  }
  ASSERT_TRUE(pipeline.set(GST_STATE_NULL));
  EXPECT_LE(frames.waits.size() - pipeline.counter("restored") - pipeline.counter("dropped"), 1U);
  // The lag does not grow with time, as it does without drops: to half of the time that has passed.
  // The machine may stop for a moment, but not at every frame.
  GstClockTime shortest_wait = GST_CLOCK_TIME_NONE;
  for (std::size_t i = 1; i <= kEnough / 2; ++i) {
    const GstClockTime time = frames.restored.at(frames.restored.size() - i);
    shortest_wait = std::min(shortest_wait, frames.waits.at(time));
  }
  EXPECT_LT(shortest_wait, frames.restored.back() / 4);
}

}  // namespace
}  // namespace elir
