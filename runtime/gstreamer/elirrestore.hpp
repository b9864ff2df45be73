// The GStreamer element elirrestore.
#pragma once

#include <gst/video/gstvideofilter.h>

namespace elir::gstreamer {
struct Element;
}

G_BEGIN_DECLS

#define GST_TYPE_ELIR_RESTORE (gst_elir_restore_get_type())
GType gst_elir_restore_get_type();

struct GstElirRestore {
  GstVideoFilter parent;
  elir::gstreamer::Element* element;
};

struct GstElirRestoreClass {
  GstVideoFilterClass parent;
};

G_END_DECLS
