#include "gstreamer_support.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <elir/elir.hpp>
#include <stdexcept>

namespace elir::test {
namespace {

elir_image image_of(const GstVideoInfo& info, std::vector<std::uint8_t>& pixels) {
  return image(pixels.data(), GST_VIDEO_INFO_WIDTH(&info), GST_VIDEO_INFO_HEIGHT(&info), 0,
               GST_VIDEO_INFO_FORMAT(&info) == GST_VIDEO_FORMAT_BGR ? ELIR_BGR8 : ELIR_RGB8);
}

// Calls `visit(row, packed)` for the rows of a buffer and of packed pixels.
template <typename Visit>
void each_row(GstVideoInfo info, GstBuffer* buffer, GstMapFlags flags, const Visit& visit) {
  GstVideoFrame frame;
  if (!gst_video_frame_map(&frame, &info, buffer, flags)) throw std::runtime_error("not mapped");
  const auto width = static_cast<std::size_t>(3 * GST_VIDEO_FRAME_WIDTH(&frame));
  auto* row = static_cast<std::uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(&frame, 0));
  for (int y = 0; y < GST_VIDEO_FRAME_HEIGHT(&frame); ++y) {
    visit(row, static_cast<std::size_t>(y) * width, width);
    row += GST_VIDEO_FRAME_PLANE_STRIDE(&frame, 0);
  }
  gst_video_frame_unmap(&frame);
}

}  // namespace

void use_gstreamer() {
  static const bool once = [] {
    setenv("GST_REGISTRY_DISABLE", "yes", 1);
    gst_init(nullptr, nullptr);
    for (const char* file : {ELIR_GST_ELEMENT, ELIR_GST_PLUGINS "/libgstcoreelements.so",
                             ELIR_GST_PLUGINS "/libgstvideotestsrc.so"}) {
      GError* error = nullptr;
      GstPlugin* const plugin = gst_plugin_load_file(file, &error);
      if (plugin == nullptr) throw std::runtime_error(error->message);
      gst_object_unref(plugin);
    }
    return true;
  }();
  static_cast<void>(once);
}

Owned<GstElement> elirrestore(const std::string& bundle) {
  use_gstreamer();
  GstElement* const element = gst_element_factory_make("elirrestore", nullptr);
  g_object_set(element, "bundle", bundle.c_str(), "backend", "reference", nullptr);
  return Owned<GstElement>(static_cast<GstElement*>(gst_object_ref_sink(element)));
}

GstPad* pad_of(GstElement* element, const char* name) {
  GstPad* const pad = gst_element_get_static_pad(element, name);
  gst_object_unref(pad);
  return pad;
}

Posted next_message(GstBus* bus, GstMessageType type) {
  const Owned<GstMessage> message(gst_bus_pop_filtered(bus, type));
  if (message == nullptr) return {};
  GError* error = nullptr;
  if (type == GST_MESSAGE_ERROR) {
    gst_message_parse_error(message.get(), &error, nullptr);
  } else {
    gst_message_parse_warning(message.get(), &error, nullptr);
  }
  Posted posted{error->message, error->domain, error->code};
  g_error_free(error);
  return posted;
}

GstVideoInfo info_of(GstVideoFormat format, int width, int height) {
  GstVideoInfo info;
  gst_video_info_set_format(&info, format, static_cast<guint>(width), static_cast<guint>(height));
  return info;
}

GstVideoInfo info_of(GstPad* pad) {
  const Owned<GstCaps> caps(gst_pad_get_current_caps(pad));
  GstVideoInfo info;
  if (caps == nullptr || !gst_video_info_from_caps(&info, caps.get())) {
    throw std::runtime_error("no caps");
  }
  return info;
}

std::vector<std::uint8_t> pixels_of(const GstVideoInfo& info, GstBuffer* buffer) {
  std::vector<std::uint8_t> pixels(
      static_cast<std::size_t>(3 * GST_VIDEO_INFO_WIDTH(&info) * GST_VIDEO_INFO_HEIGHT(&info)));
  each_row(info, buffer, GST_MAP_READ, [&](const std::uint8_t* row, std::size_t at, std::size_t n) {
    std::memcpy(&pixels[at], row, n);
  });
  return pixels;
}

Owned<GstBuffer> buffer_of(const GstVideoInfo& info, const std::vector<std::uint8_t>& pixels) {
  Owned<GstBuffer> buffer(gst_buffer_new_allocate(nullptr, GST_VIDEO_INFO_SIZE(&info), nullptr));
  each_row(
      info, buffer.get(), GST_MAP_WRITE,
      [&](std::uint8_t* row, std::size_t at, std::size_t n) { std::memcpy(row, &pixels[at], n); });
  return buffer;
}

std::vector<std::uint8_t> library_result(elir_restorer* restorer, const GstVideoInfo& in,
                                         std::vector<std::uint8_t> pixels,
                                         const GstVideoInfo& out) {
  std::vector<std::uint8_t> result(
      static_cast<std::size_t>(3 * GST_VIDEO_INFO_WIDTH(&out) * GST_VIDEO_INFO_HEIGHT(&out)));
  const elir_image input = image_of(in, pixels);
  const elir_image output = image_of(out, result);
  EXPECT_EQ(elir_restore(restorer, &input, &output), ELIR_OK) << elir_last_error();
  return result;
}

}  // namespace elir::test
