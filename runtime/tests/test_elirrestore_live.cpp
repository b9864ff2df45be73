// Frames that the GStreamer element drops, and the latency that it reports, on a clock that stands
// still.
#include <gst/check/gsttestclock.h>

#include <algorithm>

#include "element_harness.hpp"

namespace elir {
namespace {

using test::ElementTest;
using test::Harness;
using test::kFrame;
using test::Owned;

// Each result takes twice as long as a frame lasts.
class SlowElement : public ElementTest {
 protected:
  SlowElement() : harness_(test::elirrestore(bundle())) {
    harness_.set_caps(test::info_of(GST_VIDEO_FORMAT_RGB, 8, 8));
    gst_pad_add_probe(
        harness_.pad("src"), GST_PAD_PROBE_TYPE_BUFFER,
        [](GstPad*, GstPadProbeInfo*, gpointer harness) {
          auto* const target = static_cast<GstHarness*>(harness);
          const Owned<GstTestClock> clock(gst_harness_get_testclock(target));
          gst_test_clock_advance_time(clock.get(), 2 * kFrame);
          return GST_PAD_PROBE_OK;
        },
        harness_.get(), nullptr);
  }

  GstClockTime now() const {
    return gst_clock_get_time(Owned<GstClock>(gst_element_get_clock(harness_.element())).get());
  }

  // Pushes frames as a source does that waits for its clock and for the element. Returns the
  // longest time from when a frame was due until it was restored.
  GstClockTime push_frames(int count) {
    GstClockTime longest = 0;
    for (int i = 0; i < count; ++i) {
      const GstClockTime due = first_due_ + static_cast<GstClockTime>(i) * kFrame;
      if (now() < due) gst_harness_set_time(harness_.get(), due);
      EXPECT_EQ(harness_.push(test::pattern(8, 8, 1)), GST_FLOW_OK);
      if (harness_.pull() != nullptr) longest = std::max(longest, now() - due);
    }
    first_due_ += static_cast<GstClockTime>(count) * kFrame;
    return longest;
  }

  Harness harness_;
  GstClockTime first_due_ = 0;
};

TEST_F(SlowElement, DropsFramesOfALiveSourceAndCountsThem) {
  EXPECT_LE(push_frames(300), 3 * kFrame);
  EXPECT_EQ(harness_.counter("restored"), 150U);
  EXPECT_EQ(harness_.counter("dropped"), 150U);
  guint64 messages = 0;
  while (const Owned<GstMessage> message{gst_bus_pop_filtered(harness_.bus(), GST_MESSAGE_QOS)}) {
    guint64 processed = 0;
    guint64 dropped = 0;
    gst_message_parse_qos_stats(message.get(), nullptr, &processed, &dropped);
    EXPECT_EQ(dropped, ++messages);
    EXPECT_EQ(processed, messages);
  }
  EXPECT_EQ(messages, 150U);
}

TEST_F(SlowElement, DropsNothingWithoutQos) {
  g_object_set(harness_.element(), "qos", FALSE, nullptr);
  push_frames(20);
  EXPECT_EQ(harness_.counter("restored"), 20U);
}

TEST_F(SlowElement, DropsNothingOfASourceThatWaits) {
  gst_pad_add_probe(
      harness_.pad("sink"), GST_PAD_PROBE_TYPE_QUERY_UPSTREAM,
      [](GstPad*, GstPadProbeInfo* probe, gpointer) {
        GstQuery* const query = GST_PAD_PROBE_INFO_QUERY(probe);
        if (GST_QUERY_TYPE(query) != GST_QUERY_LATENCY) return GST_PAD_PROBE_OK;
        gst_query_set_latency(query, FALSE, 0, GST_CLOCK_TIME_NONE);
        return GST_PAD_PROBE_HANDLED;
      },
      nullptr, nullptr);
  push_frames(20);
  EXPECT_EQ(harness_.counter("restored"), 20U);
}

TEST_F(SlowElement, StartsAnewAfterAFlush) {
  push_frames(1);  // the element is late now
  gst_harness_push_event(harness_.get(), gst_event_new_flush_start());
  gst_harness_push_event(harness_.get(), gst_event_new_flush_stop(FALSE));
  GstSegment segment;
  gst_segment_init(&segment, GST_FORMAT_TIME);
  gst_harness_push_event(harness_.get(), gst_event_new_segment(&segment));
  push_frames(1);
  EXPECT_EQ(harness_.counter("restored"), 2U);
}

// While it is PAUSED, the clock goes on, and the running time does not.
TEST_F(SlowElement, StartsAnewAfterAPause) {
  gst_element_set_state(harness_.element(), GST_STATE_PAUSED);
  gst_harness_set_time(harness_.get(), 100 * kFrame);
  EXPECT_EQ(harness_.push(test::pattern(8, 8, 1)), GST_FLOW_OK);
  gst_element_set_base_time(harness_.element(), now() - kFrame);
  gst_element_set_state(harness_.element(), GST_STATE_PLAYING);
  EXPECT_EQ(harness_.push(test::pattern(8, 8, 1)), GST_FLOW_OK);
  EXPECT_EQ(harness_.counter("restored"), 2U);
}

TEST_F(SlowElement, ReportsItsLatency) {
  g_object_set(harness_.element(), "qos", FALSE, nullptr);  // as much as otherwise
  EXPECT_EQ(gst_harness_query_latency(harness_.get()), 0U);
  push_frames(6);
  EXPECT_GT(gst_harness_query_latency(harness_.get()), 0U);
  const Owned<GstMessage> message(gst_bus_pop_filtered(harness_.bus(), GST_MESSAGE_LATENCY));
  EXPECT_NE(message, nullptr);
}

// A sink that shows frames late says so.
TEST_F(ElementTest, DropsFramesThatTheSinkWouldShowLate) {
  Harness harness(test::elirrestore(bundle()));
  harness.set_caps(test::info_of(GST_VIDEO_FORMAT_RGB, 8, 8));
  ASSERT_EQ(harness.push(test::pattern(8, 8, 1)), GST_FLOW_OK);
  gst_harness_push_upstream_event(harness.get(),
                                  gst_event_new_qos(GST_QOS_TYPE_UNDERFLOW, 1, 4 * kFrame, kFrame));
  for (int i = 1; i < 10; ++i) {
    ASSERT_EQ(harness.push(test::pattern(8, 8, 1)), GST_FLOW_OK);
  }
  EXPECT_EQ(harness.counter("restored"), 5U);
  EXPECT_EQ(harness.counter("dropped"), 5U);
}

}  // namespace
}  // namespace elir
