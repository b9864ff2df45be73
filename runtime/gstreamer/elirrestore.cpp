#include "elirrestore.hpp"

#include <atomic>
#include <string>

#include "backlog.hpp"
#include "caps.hpp"
#include "frame_restorer.hpp"
#include "properties.hpp"

GST_DEBUG_CATEGORY_STATIC(elir_restore_debug);
#define GST_CAT_DEFAULT elir_restore_debug

G_DEFINE_TYPE(GstElirRestore, gst_elir_restore, GST_TYPE_VIDEO_FILTER)

namespace elir::gstreamer {

enum class Source { unknown, live, not_live };

struct Element {
  // Under the object lock.
  Settings settings;
  bool runs = false;         // between READY and PAUSED, or above
  bool settings_new = true;  // the restorer is not that of `settings`

  GstPadChainFunction base_chain = nullptr;
  FrameRestorer restorer;
  std::atomic<int> upscale{0};  // 0 until the bundle is open

  // Of the streaming thread.
  Backlog backlog;
  Latency latency;
  GstClockTime frame_duration = 0;  // by the caps

  std::atomic<bool> after_pause{false};
  std::atomic<Source> source{Source::unknown};
  std::atomic<std::int64_t> reported_latency{0};
  std::atomic<guint64> restored{0};
  std::atomic<guint64> dropped{0};
};

namespace {

GstElirRestore* self_of(gpointer instance) { return static_cast<GstElirRestore*>(instance); }
Element& element_of(gpointer instance) { return *self_of(instance)->element; }

GstBaseTransformClass* base() { return GST_BASE_TRANSFORM_CLASS(gst_elir_restore_parent_class); }

class ObjectLock {
 public:
  explicit ObjectLock(gpointer object) : object_(object) { GST_OBJECT_LOCK(object_); }
  ~ObjectLock() { GST_OBJECT_UNLOCK(object_); }
  ObjectLock(const ObjectLock&) = delete;
  ObjectLock& operator=(const ObjectLock&) = delete;

 private:
  gpointer object_;
};

void post(gpointer self, GstMessageType type, GQuark domain, int code, const std::string& text) {
  gst_element_message_full(GST_ELEMENT(self), type, domain, code, g_strdup(text.c_str()), nullptr,
                           __FILE__, GST_FUNCTION, __LINE__);
}

void post_error(gpointer self, const Failure& failure) {
  GQuark domain = GST_LIBRARY_ERROR;
  int code = GST_LIBRARY_ERROR_FAILED;
  switch (failure.status) {
    case ELIR_ERROR_USAGE:
      code = GST_LIBRARY_ERROR_SETTINGS;
      break;
    case ELIR_ERROR_BUNDLE:
      domain = GST_RESOURCE_ERROR;
      code = GST_RESOURCE_ERROR_READ;
      break;
    case ELIR_ERROR_IMAGE:
      domain = GST_STREAM_ERROR;
      code = GST_STREAM_ERROR_FORMAT;
      break;
    case ELIR_ERROR_UNAVAILABLE:
      code = GST_LIBRARY_ERROR_INIT;
      break;
    case ELIR_ERROR_MEMORY:
      domain = GST_RESOURCE_ERROR;
      code = GST_RESOURCE_ERROR_NO_SPACE_LEFT;
      break;
    default:
      break;
  }
  post(self, GST_MESSAGE_ERROR, domain, code, failure.message);
}

void log_message(void* self, elir_log_level level, const char* message) {
  if (level == ELIR_LOG_WARNING) {
    post(self, GST_MESSAGE_WARNING, GST_LIBRARY_ERROR, GST_LIBRARY_ERROR_SETTINGS, message);
  } else {
    GST_INFO_OBJECT(self, "%s", message);
  }
}

std::int64_t running_time(gpointer self) {
  const GstClockTime now = gst_element_get_current_running_time(GST_ELEMENT(self));
  return GST_CLOCK_TIME_IS_VALID(now) ? static_cast<std::int64_t>(now) : -1;
}

void set_property(GObject* object, guint id, const GValue* value, GParamSpec* spec) {
  Element& element = element_of(object);
  {
    const ObjectLock lock(object);
    if (!element.runs) {
      write_setting(element.settings, id, value);
      element.settings_new = true;
      element.upscale = 0;
      return;
    }
  }
  post(object, GST_MESSAGE_WARNING, GST_LIBRARY_ERROR, GST_LIBRARY_ERROR_SETTINGS,
       std::string("the property ") + spec->name +
           " was not changed, because the element runs: set its state to READY first");
}

void get_property(GObject* object, guint id, GValue* value, GParamSpec* /*spec*/) {
  Element& element = element_of(object);
  if (id == kRestored || id == kDropped) {
    g_value_set_uint64(value, id == kRestored ? element.restored : element.dropped);
    return;
  }
  const ObjectLock lock(object);
  read_setting(element.settings, id, value);
}

gboolean open_bundle(GstBaseTransform* self) {
  Element& element = element_of(self);
  Settings settings;
  {
    const ObjectLock lock(self);
    element.runs = true;
    if (!element.settings_new && element.restorer.is_open()) return TRUE;
    settings = element.settings;
  }
  const auto failed = element.restorer.open(settings, log_message, self);
  if (failed) post_error(self, *failed);
  const ObjectLock lock(self);
  element.runs = !failed;
  element.settings_new = failed.has_value();
  return failed ? FALSE : TRUE;
}

gboolean start(GstBaseTransform* self) {
  Element& element = element_of(self);
  if (open_bundle(self) == FALSE) return FALSE;
  element.upscale = element.restorer.upscale();
  element.backlog.reset();
  element.latency = Latency();
  element.source = Source::unknown;
  element.reported_latency = 0;
  element.restored = 0;
  element.dropped = 0;
  return TRUE;
}

gboolean stop(GstBaseTransform* self) {
  const ObjectLock lock(self);
  element_of(self).runs = false;
  return TRUE;
}

// The bundle stays open in READY, and is opened again only for other properties.
GstStateChangeReturn change_state(GstElement* self, GstStateChange change) {
  Element& element = element_of(self);
  // In PAUSED the running time stands still, but not the clock.
  if (change == GST_STATE_CHANGE_PAUSED_TO_PLAYING) element.after_pause = true;
  const GstStateChangeReturn result =
      GST_ELEMENT_CLASS(gst_elir_restore_parent_class)->change_state(self, change);
  if (change == GST_STATE_CHANGE_READY_TO_NULL) {
    element.upscale = 0;
    element.restorer.close();
  }
  return result;
}

GstCaps* transform_caps(GstBaseTransform* self, GstPadDirection direction, GstCaps* caps,
                        GstCaps* filter) {
  const int upscale = element_of(self).upscale;
  GstCaps* const all = direction == GST_PAD_SINK ? scale_caps(caps, upscale, 1)
                                                 : scale_caps(caps, upscale > 0 ? 1 : 0, upscale);
  if (filter == nullptr) return all;
  GstCaps* const filtered = gst_caps_intersect_full(filter, all, GST_CAPS_INTERSECT_FIRST);
  gst_caps_unref(all);
  return filtered;
}

GstCaps* fixate_caps(GstBaseTransform* self, GstPadDirection direction, GstCaps* caps,
                     GstCaps* others) {
  return base()->fixate_caps(self, direction, caps, prefer_format(caps, others));
}

gboolean set_info(GstVideoFilter* self, GstCaps* /*in_caps*/, GstVideoInfo* in,
                  GstCaps* /*out_caps*/, GstVideoInfo* /*out*/) {
  if (GST_VIDEO_INFO_IS_INTERLACED(in)) {
    post(self, GST_MESSAGE_WARNING, GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT,
         "the frames are interlaced, and are restored as if each were of one moment: put "
         "deinterlace in front of the element");
  }
  Element& element = element_of(self);
  element.latency.expect_new_size();
  element.frame_duration = GST_VIDEO_INFO_FPS_N(in) > 0
                               ? gst_util_uint64_scale_int(GST_SECOND, GST_VIDEO_INFO_FPS_D(in),
                                                           GST_VIDEO_INFO_FPS_N(in))
                               : 0;
  return TRUE;
}

elir_image image_of(GstVideoFrame* frame) {
  const bool bgr = GST_VIDEO_FRAME_FORMAT(frame) == GST_VIDEO_FORMAT_BGR;
  return {GST_VIDEO_FRAME_PLANE_DATA(frame, 0),
          GST_VIDEO_FRAME_WIDTH(frame),
          GST_VIDEO_FRAME_HEIGHT(frame),
          GST_VIDEO_FRAME_PLANE_STRIDE(frame, 0),
          bgr ? ELIR_BGR8 : ELIR_RGB8,
          ELIR_MEMORY_HOST,
          nullptr};
}

// Whether the source is live. It may not know before it has caps.
bool is_live(GstBaseTransform* self) {
  Element& element = element_of(self);
  if (element.source == Source::unknown) {
    GstQuery* const query = gst_query_new_latency();
    if (gst_pad_peer_query(self->sinkpad, query)) {
      gboolean live = FALSE;
      gst_query_parse_latency(query, &live, nullptr, nullptr);
      element.source = live ? Source::live : Source::not_live;
    }
    gst_query_unref(query);
  }
  return element.source == Source::live;
}

GstFlowReturn transform_frame(GstVideoFilter* self, GstVideoFrame* in, GstVideoFrame* out) {
  Element& element = element_of(self);
  const gint64 begin = g_get_monotonic_time();
  const auto failed = element.restorer.restore(image_of(in), image_of(out));
  if (failed) {
    post_error(self, *failed);
    return GST_FLOW_ERROR;
  }
  const gint64 microseconds = g_get_monotonic_time() - begin;
  ++element.restored;
  const bool changed =
      element.latency.add(1000 * microseconds, static_cast<std::int64_t>(element.frame_duration));
  if (changed) {
    element.reported_latency = element.latency.value();
    if (is_live(GST_BASE_TRANSFORM(self))) {
      gst_element_post_message(GST_ELEMENT(self), gst_message_new_latency(GST_OBJECT(self)));
    }
  }
  return GST_FLOW_OK;
}

gboolean query(GstBaseTransform* self, GstPadDirection direction, GstQuery* query) {
  if (direction != GST_PAD_SRC || GST_QUERY_TYPE(query) != GST_QUERY_LATENCY) {
    return base()->query(self, direction, query);
  }
  if (!gst_pad_peer_query(self->sinkpad, query)) return FALSE;
  gboolean live = FALSE;
  GstClockTime least = 0;
  GstClockTime most = 0;
  gst_query_parse_latency(query, &live, &least, &most);
  if (!live) return TRUE;
  const auto latency = static_cast<GstClockTime>(element_of(self).reported_latency.load());
  if (GST_CLOCK_TIME_IS_VALID(most)) most += latency;
  gst_query_set_latency(query, live, least + latency, most);
  return TRUE;
}

// Has the frame dropped by the base class, unless QoS is off, if it has waited too long.
void check_wait(GstBaseTransform* self, const GstBuffer* buffer) {
  Element& element = element_of(self);
  if (element.after_pause.exchange(false)) element.backlog.reset();
  const std::int64_t now = running_time(self);
  const GstClockTime time =
      self->segment.format == GST_FORMAT_TIME
          ? gst_segment_to_running_time(&self->segment, GST_FORMAT_TIME, GST_BUFFER_PTS(buffer))
          : GST_CLOCK_TIME_NONE;
  if (now < 0 || !GST_CLOCK_TIME_IS_VALID(time) || !is_live(self)) return;
  const GstClockTime duration =
      GST_BUFFER_DURATION_IS_VALID(buffer) ? GST_BUFFER_DURATION(buffer) : element.frame_duration;
  const auto excess = element.backlog.arrive(static_cast<std::int64_t>(time),
                                             static_cast<std::int64_t>(duration), now);
  if (excess) gst_base_transform_update_qos(self, 1, *excess, time);
}

GstFlowReturn submit_input_buffer(GstBaseTransform* self, gboolean discont, GstBuffer* buffer) {
  check_wait(self, buffer);
  const GstFlowReturn result = base()->submit_input_buffer(self, discont, buffer);
  if (result == GST_BASE_TRANSFORM_FLOW_DROPPED) ++element_of(self).dropped;
  return result;
}

// The element is busy until the result is pushed.
GstFlowReturn chain(GstPad* pad, GstObject* self, GstBuffer* buffer) {
  Element& element = element_of(self);
  const GstFlowReturn result = element.base_chain(pad, self, buffer);
  const std::int64_t now = running_time(self);
  if (now >= 0) element.backlog.finish(now);
  return result;
}

gboolean sink_event(GstBaseTransform* self, GstEvent* event) {
  if (GST_EVENT_TYPE(event) == GST_EVENT_SEGMENT || GST_EVENT_TYPE(event) == GST_EVENT_FLUSH_STOP) {
    element_of(self).backlog.reset();
  }
  return base()->sink_event(self, event);
}

gboolean src_event(GstBaseTransform* self, GstEvent* event) {
  if (GST_EVENT_TYPE(event) == GST_EVENT_LATENCY) element_of(self).source = Source::unknown;
  return base()->src_event(self, event);
}

void finalize(GObject* object) {
  delete self_of(object)->element;
  G_OBJECT_CLASS(gst_elir_restore_parent_class)->finalize(object);
}

void add_pad_template(GstElementClass* klass, const char* name, GstPadDirection direction) {
  GstCaps* const caps = gst_caps_from_string(GST_VIDEO_CAPS_MAKE("{ RGB, BGR }"));
  gst_element_class_add_pad_template(klass,
                                     gst_pad_template_new(name, direction, GST_PAD_ALWAYS, caps));
  gst_caps_unref(caps);
}

}  // namespace
}  // namespace elir::gstreamer

static void gst_elir_restore_init(GstElirRestore* self) {
  using namespace elir::gstreamer;
  self->element = new Element;
  GstPad* const pad = GST_BASE_TRANSFORM_SINK_PAD(self);
  self->element->base_chain = GST_PAD_CHAINFUNC(pad);
  gst_pad_set_chain_function(pad, chain);
}

static void gst_elir_restore_class_init(GstElirRestoreClass* klass) {
  using namespace elir::gstreamer;
  GST_DEBUG_CATEGORY_INIT(elir_restore_debug, "elirrestore", 0, "restoring frames");
  GObjectClass* const object = G_OBJECT_CLASS(klass);
  object->set_property = set_property;
  object->get_property = get_property;
  object->finalize = finalize;
  install_properties(object);

  GstElementClass* const element = GST_ELEMENT_CLASS(klass);
  element->change_state = change_state;
  gst_element_class_set_static_metadata(element, "ELIR image restoration", "Filter/Effect/Video",
                                        "Restores or enlarges frames with a bundle of elir-export",
                                        "The elir-deploy authors");
  add_pad_template(element, "sink", GST_PAD_SINK);
  add_pad_template(element, "src", GST_PAD_SRC);

  GstBaseTransformClass* const transform = GST_BASE_TRANSFORM_CLASS(klass);
  transform->start = start;
  transform->stop = stop;
  transform->transform_caps = transform_caps;
  transform->fixate_caps = fixate_caps;
  transform->query = query;
  transform->submit_input_buffer = submit_input_buffer;
  transform->sink_event = sink_event;
  transform->src_event = src_event;
  GST_VIDEO_FILTER_CLASS(klass)->set_info = set_info;
  GST_VIDEO_FILTER_CLASS(klass)->transform_frame = transform_frame;
}
