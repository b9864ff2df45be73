// Frames through the GStreamer element: pixels, sizes, formats and what its properties do to them.
#include <elir/elir.hpp>
#include <set>

#include "element_harness.hpp"

namespace elir {
namespace {

using test::BundleOptions;
using test::ElementTest;
using test::Harness;
using test::kFrame;
using test::Owned;
using test::Pixels;

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

}  // namespace
}  // namespace elir
