// The GStreamer element by itself, fed frame by frame.
#include <gst/check/gstharness.h>
#include <gst/check/gsttestclock.h>
#include <gtest/gtest.h>

#include <elir/elir.hpp>
#include <fstream>
#include <iterator>
#include <set>

#include "gstreamer_support.hpp"
#include "support.hpp"

namespace elir {
namespace {

using test::BundleOptions;
using test::Owned;
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
  GstPad* pad(const char* name) const { return test::pad_of(element_.get(), name); }

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
  GstFlowReturn push(const Pixels& pixels) { return push(test::buffer_of(in_, pixels)); }
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
    test::write_bundle(path, options);
    return path.string();
  }

  test::Folder folder_;
  int count_ = 0;
};

TEST_F(ElementTest, SameBytesAsRestoreFor300Frames) {
  const std::string path = bundle();
  Restorer restorer(path, test::reference_params());
  Harness harness(test::elirrestore(path));
  const GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 33, 41);  // rows of 99 in 100 bytes
  harness.set_caps(info);
  std::set<GstBuffer*> buffers;
  for (std::uint64_t i = 0; i < 300; ++i) {
    const Pixels pixels = test::pattern(33, 41, i);
    ASSERT_EQ(harness.push(pixels), GST_FLOW_OK);
    const auto buffer = harness.pull();
    ASSERT_NE(buffer, nullptr);
    EXPECT_EQ(GST_BUFFER_PTS(buffer.get()), i * kFrame);
    EXPECT_EQ(GST_BUFFER_DURATION(buffer.get()), kFrame);
    EXPECT_NE(buffer->pool, nullptr);
    buffers.insert(buffer.get());
    ASSERT_EQ(test::pixels_of(info, buffer.get()),
              test::library_result(restorer.get(), info, pixels, info));
  }
  EXPECT_LE(buffers.size(), 2U);  // used again
  EXPECT_EQ(harness.counter("restored"), 300U);
  EXPECT_EQ(harness.counter("dropped"), 0U);
}

struct Change {
  GstVideoFormat format;
  int width;
  int height;
  const char* output;  // what the other side takes
  GstVideoFormat output_format;
};

TEST_F(ElementTest, CapsMayChangeWhileItRuns) {
  for (const int upscale : {1, 4}) {
    BundleOptions options;
    options.upscale = upscale;
    options.kernel = upscale == 1 ? "none" : "bicubic";
    const std::string path = bundle(options);
    Restorer restorer(path, test::reference_params());
    Harness harness(test::elirrestore(path));
    constexpr auto kRgb = GST_VIDEO_FORMAT_RGB;
    constexpr auto kBgr = GST_VIDEO_FORMAT_BGR;
    for (const Change& change :
         {Change{kRgb, 50, 40, "video/x-raw", kRgb}, Change{kBgr, 50, 40, "video/x-raw", kBgr},
          Change{kBgr, 7, 9, "video/x-raw,format=RGB", kRgb},
          Change{kRgb, 32, 32, "video/x-raw,format={BGR,RGB}", kRgb},
          Change{kRgb, 1, 70, "video/x-raw,width=[1,300]", kRgb}}) {
      gst_harness_set_sink_caps_str(harness.get(), change.output);
      const GstVideoInfo in = test::info_of(change.format, change.width, change.height);
      harness.set_caps(in);
      const Pixels pixels = test::pattern(static_cast<std::size_t>(change.width),
                                          static_cast<std::size_t>(change.height), 1);
      ASSERT_EQ(harness.push(pixels), GST_FLOW_OK);
      const GstVideoInfo out = test::info_of(harness.pad("src"));
      EXPECT_EQ(GST_VIDEO_INFO_FORMAT(&out), change.output_format);
      EXPECT_EQ(GST_VIDEO_INFO_WIDTH(&out), upscale * change.width);
      EXPECT_EQ(GST_VIDEO_INFO_HEIGHT(&out), upscale * change.height);
      EXPECT_EQ(GST_VIDEO_INFO_FPS_N(&out), 25);
      EXPECT_EQ(test::pixels_of(out, harness.pull().get()),
                test::library_result(restorer.get(), in, pixels, out));
    }
  }
}

TEST_F(ElementTest, SizesThatDoNotFitAreNotNegotiated) {
  BundleOptions options;
  options.upscale = 4;
  options.kernel = "bicubic";
  Harness harness(test::elirrestore(bundle(options)));
  gst_harness_set_sink_caps_str(harness.get(), "video/x-raw,width=[101,203]");
  const auto sizes = [&] {
    const Owned<GstCaps> caps(gst_pad_query_caps(harness.pad("sink"), nullptr));
    const GValue* width = gst_structure_get_value(gst_caps_get_structure(caps.get(), 0), "width");
    return std::pair(gst_value_get_int_range_min(width), gst_value_get_int_range_max(width));
  };
  EXPECT_EQ(sizes(), std::pair(26, 50));
  gst_harness_set_sink_caps_str(harness.get(), "video/x-raw,width=201");
  harness.set_caps(test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40));
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_NOT_NEGOTIATED);
}

// Rows may be as far apart as a frame's metadata say, before the element and behind it.
TEST_F(ElementTest, Strides) {
  const std::string path = bundle();
  Restorer restorer(path, test::reference_params());
  Harness harness(test::elirrestore(path));
  const GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_BGR, 33, 20);
  gst_pad_add_probe(
      harness.pad("src"), GST_PAD_PROBE_TYPE_QUERY_DOWNSTREAM,
      [](GstPad*, GstPadProbeInfo* probe, gpointer) {
        GstQuery* const query = GST_PAD_PROBE_INFO_QUERY(probe);
        if (GST_QUERY_TYPE(query) != GST_QUERY_ALLOCATION) return GST_PAD_PROBE_OK;
        GstCaps* caps = nullptr;
        gst_query_parse_allocation(query, &caps, nullptr);
        GstBufferPool* const pool = gst_video_buffer_pool_new();
        GstStructure* const config = gst_buffer_pool_get_config(pool);
        GstVideoAlignment alignment;
        gst_video_alignment_reset(&alignment);
        alignment.padding_right = 9;
        alignment.padding_top = 3;
        gst_buffer_pool_config_set_params(config, caps, 4096, 0, 0);
        gst_buffer_pool_config_add_option(config, GST_BUFFER_POOL_OPTION_VIDEO_META);
        gst_buffer_pool_config_add_option(config, GST_BUFFER_POOL_OPTION_VIDEO_ALIGNMENT);
        gst_buffer_pool_config_set_video_alignment(config, &alignment);
        gst_buffer_pool_set_config(pool, config);
        gst_query_add_allocation_pool(query, pool, 4096, 0, 0);
        gst_query_add_allocation_meta(query, GST_VIDEO_META_API_TYPE, nullptr);
        gst_object_unref(pool);
        return GST_PAD_PROBE_HANDLED;
      },
      nullptr, nullptr);
  harness.set_caps(info);
  const Pixels pixels = test::pattern(33, 20, 1);
  gsize offset = 5;
  gint stride = 113;
  Owned<GstBuffer> buffer(gst_buffer_new_allocate(nullptr, offset + 20 * 113, nullptr));
  gst_buffer_memset(buffer.get(), 0, 77, offset + 20 * 113);
  gst_buffer_add_video_meta_full(buffer.get(), GST_VIDEO_FRAME_FLAG_NONE, GST_VIDEO_FORMAT_BGR, 33,
                                 20, 1, &offset, &stride);
  for (gsize y = 0; y < 20; ++y) {
    gst_buffer_fill(buffer.get(), offset + y * 113, &pixels[y * 99], 99);
  }
  ASSERT_EQ(harness.push(std::move(buffer)), GST_FLOW_OK);
  const auto result = harness.pull();
  const GstVideoMeta* const meta = gst_buffer_get_video_meta(result.get());
  ASSERT_NE(meta, nullptr);
  EXPECT_GT(meta->stride[0], 100);
  EXPECT_EQ(test::pixels_of(info, result.get()),
            test::library_result(restorer.get(), info, pixels, info));
}

TEST_F(ElementTest, PropertiesReachTheRestorer) {
  BundleOptions options;
  options.noise_stride = 8;
  const std::string path = bundle(options);
  elir_params params = test::reference_params();
  params.strength = 0.25;
  params.sigma_s = 3;
  params.seed = 4294967295;
  Restorer restorer(path, params);
  auto element = test::elirrestore(path);
  g_object_set(element.get(), "strength", params.strength, "sigma-s", params.sigma_s, "seed",
               params.seed, "precision", "fp32", "device", 0, nullptr);
  Harness harness(std::move(element));
  const GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40);
  harness.set_caps(info);
  const Pixels pixels = test::pattern(50, 40, 1);
  ASSERT_EQ(harness.push(pixels), GST_FLOW_OK);
  const Pixels result = test::pixels_of(info, harness.pull().get());
  EXPECT_EQ(result, test::library_result(restorer.get(), info, pixels, info));
  Restorer plain(path, test::reference_params());
  EXPECT_NE(result, test::library_result(plain.get(), info, pixels, info));
}

TEST_F(ElementTest, Faces) {
  BundleOptions options;
  options.side = 64;
  options.faces = true;
  const std::string without_detector = bundle(options);
  options.detector = test::detector_graph();
  const std::string path = bundle(options);
  Restorer restorer(path, test::reference_params());
  auto pixels = test::spots(400, 300, {{100, 100}, {300, 160}, {120, 248}});
  const GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 400, 300);
  const auto by_element = [&](const std::string& folder, const char* faces) {
    auto element = test::elirrestore(folder);
    gst_util_set_object_arg(G_OBJECT(element.get()), "faces", faces);
    Harness harness(std::move(element));
    harness.set_caps(info);
    EXPECT_EQ(harness.push(pixels), GST_FLOW_OK);
    return test::pixels_of(info, harness.pull().get());
  };
  const auto by_library = [&](elir_faces faces) {
    Pixels result(pixels.size());
    restorer.restore_photo(test::image_of(pixels, 400, 300), test::image_of(result, 400, 300),
                           faces);
    return result;
  };
  const Pixels whole = test::library_result(restorer.get(), info, pixels, info);
  EXPECT_EQ(by_element(path, "default"), by_library(ELIR_FACES_AUTO));
  EXPECT_EQ(by_element(path, "all"), by_library(ELIR_FACES_ALL));
  EXPECT_EQ(by_element(path, "largest"), by_library(ELIR_FACES_LARGEST));
  EXPECT_EQ(by_element(path, "centre"), by_library(ELIR_FACES_CENTRE));
  EXPECT_NE(by_element(path, "centre"), by_library(ELIR_FACES_ALL));
  EXPECT_EQ(by_element(path, "aligned"), whole);
  EXPECT_EQ(by_element(without_detector, "default"), whole);
}

struct Misuse {
  const char* name;
  void (*change)(GstElement* element, const std::string& bundle);
  GQuark (*domain)();
  int code;
  const char* message;
};

class ElementMisuse : public ElementTest, public ::testing::WithParamInterface<Misuse> {};

TEST_P(ElementMisuse, IsAnErrorOnTheBus) {
  const std::string path = bundle();
  const auto element = test::elirrestore(path);
  GetParam().change(element.get(), path);
  const Owned<GstBus> bus(gst_bus_new());
  gst_element_set_bus(element.get(), bus.get());
  EXPECT_EQ(gst_element_set_state(element.get(), GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  const test::Posted posted = test::next_message(bus.get(), GST_MESSAGE_ERROR);
  EXPECT_NE(posted.text.find(GetParam().message), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GetParam().domain());
  EXPECT_EQ(posted.code, GetParam().code);
  gst_element_set_state(element.get(), GST_STATE_NULL);
  g_object_set(element.get(), "bundle", bundle().c_str(), "backend", "reference", "sigma-s", -1.0,
               nullptr);
  gst_util_set_object_arg(G_OBJECT(element.get()), "faces", "default");
  EXPECT_NE(gst_element_set_state(element.get(), GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  gst_element_set_state(element.get(), GST_STATE_NULL);
  gst_element_set_bus(element.get(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(
    All, ElementMisuse,
    ::testing::Values(
        Misuse{"NoBundle",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "bundle", nullptr, nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "the property bundle is not set: set it to the folder that elir-export wrote"},
        Misuse{"MissingBundle",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "bundle", "/nowhere", nullptr);
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "/nowhere"},
        Misuse{"DamagedBundle",
               [](GstElement*, const std::string& bundle) {
                 test::write_file(bundle + "/bundle.json", "{");
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "bundle.json"},
        Misuse{"UnknownBackend",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "backend", "abacus", nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS, "abacus"},
        Misuse{"NoiseThatIsAConstant",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "sigma-s", 0.5, nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS, "sigma_s is set"},
        Misuse{"FacesOfABundleForPictures",
               [](GstElement* element, const std::string&) {
                 gst_util_set_object_arg(G_OBJECT(element), "faces", "all");
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "the property faces is for bundles of faces"},
        Misuse{"FacesWithoutDetector",
               [](GstElement* element, const std::string& bundle) {
                 BundleOptions options;
                 options.faces = true;
                 test::write_bundle(bundle + "/faces", options);
                 g_object_set(element, "bundle", (bundle + "/faces").c_str(), nullptr);
                 gst_util_set_object_arg(G_OBJECT(element), "faces", "largest");
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "has no face detector"}),
    [](const auto& each) { return each.param.name; });

TEST_F(ElementTest, AFrameThatFailsIsAnErrorOnTheBus) {
  BundleOptions options;
  options.side = 8;  // too small for squares of faces, which only the first photograph finds out
  options.faces = true;
  options.detector = test::detector_graph();
  Harness harness(test::elirrestore(bundle(options)));
  harness.set_caps(test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40));
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_ERROR);
  const test::Posted posted = test::next_message(harness.bus(), GST_MESSAGE_ERROR);
  EXPECT_NE(posted.text.find("squares of aligned faces"), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GST_LIBRARY_ERROR);
  EXPECT_EQ(harness.counter("restored"), 0U);
}

TEST_F(ElementTest, WarningsAreOnTheBus) {
  const std::string path = bundle();
  const std::string file = path + "/bundle.json";
  std::ifstream source(file);
  std::string manifest(std::istreambuf_iterator<char>(source), {});
  const std::string key = "\"random\": false";
  manifest.replace(manifest.find(key), key.size(), "\"random\": true");
  test::write_file(file, manifest);
  const Harness harness(test::elirrestore(path));
  EXPECT_NE(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text.find("random weights"),
            std::string::npos);
  g_object_set(harness.element(), "strength", 0.5, nullptr);
  EXPECT_EQ(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text,
            "the property strength was not changed, because the element runs: set its state to "
            "READY first");
  double strength = 0;
  g_object_get(harness.element(), "strength", &strength, nullptr);
  EXPECT_EQ(strength, 1);
}

TEST_F(ElementTest, InterlacedFramesAreRestoredWithAWarning) {
  Harness harness(test::elirrestore(bundle()));
  GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40);
  harness.set_caps(info);
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_OK);
  EXPECT_EQ(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text, "");
  GST_VIDEO_INFO_INTERLACE_MODE(&info) = GST_VIDEO_INTERLACE_MODE_INTERLEAVED;
  harness.set_caps(info);
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_OK);
  const test::Posted posted = test::next_message(harness.bus(), GST_MESSAGE_WARNING);
  EXPECT_NE(posted.text.find("interlaced"), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GST_STREAM_ERROR);
  EXPECT_EQ(posted.code, GST_STREAM_ERROR_FORMAT);
}

// A bundle may take minutes to open.
TEST_F(ElementTest, OpensTheBundleAgainOnlyForOtherProperties) {
  const std::string path = bundle();
  const auto element = test::elirrestore(path);
  const auto starts = [&] {
    return gst_element_set_state(element.get(), GST_STATE_PAUSED) != GST_STATE_CHANGE_FAILURE;
  };
  ASSERT_TRUE(starts());
  std::filesystem::rename(path, path + ".away");
  gst_element_set_state(element.get(), GST_STATE_READY);
  EXPECT_TRUE(starts());
  gst_element_set_state(element.get(), GST_STATE_READY);
  g_object_set(element.get(), "strength", 0.5, nullptr);
  EXPECT_FALSE(starts());
  std::filesystem::rename(path + ".away", path);
  EXPECT_TRUE(starts());
  std::filesystem::rename(path, path + ".away");
  gst_element_set_state(element.get(), GST_STATE_NULL);
  EXPECT_FALSE(starts());
  gst_element_set_state(element.get(), GST_STATE_NULL);
}

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
