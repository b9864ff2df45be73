// The element elirrestore for tests, from this build, without the plugins and the registry of the
// user.
#pragma once

#include <elir/elir.h>
#include <gst/video/video.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace elir::test {

struct Unref {
  void operator()(GstCaps* caps) const { gst_caps_unref(caps); }
  void operator()(GstBuffer* buffer) const { gst_buffer_unref(buffer); }
  void operator()(GstMessage* message) const { gst_message_unref(message); }
  void operator()(void* object) const { gst_object_unref(object); }
};
template <typename T>
using Owned = std::unique_ptr<T, Unref>;

// Initialises GStreamer once, with the elements that the tests use.
void use_gstreamer();

// An element with this bundle on the reference backend, in NULL.
Owned<GstElement> elirrestore(const std::string& bundle);

// A pad of an element, valid as long as the element.
GstPad* pad_of(GstElement* element, const char* name);

// Text and domain of the next message of this type; empty if there is none.
struct Posted {
  std::string text;
  GQuark domain = 0;
  int code = 0;
};
Posted next_message(GstBus* bus, GstMessageType type);

GstVideoInfo info_of(GstVideoFormat format, int width, int height);
GstVideoInfo info_of(GstPad* pad);

// Pixels without padding between rows, to and from a buffer.
std::vector<std::uint8_t> pixels_of(const GstVideoInfo& info, GstBuffer* buffer);
Owned<GstBuffer> buffer_of(const GstVideoInfo& info, const std::vector<std::uint8_t>& pixels);

// What elir_restore makes of a picture, with the formats of the two infos.
std::vector<std::uint8_t> library_result(elir_restorer* restorer, const GstVideoInfo& in,
                                         std::vector<std::uint8_t> pixels, const GstVideoInfo& out);

}  // namespace elir::test
