#include "elirrestore.hpp"

#define PACKAGE "elir-deploy"

namespace {

gboolean register_elements(GstPlugin* plugin) {
  return gst_element_register(plugin, "elirrestore", GST_RANK_NONE, GST_TYPE_ELIR_RESTORE);
}

}  // namespace

// GStreamer loads no plugin whose licence it does not know by name: 1.22 knows "Apache 2.0", older
// ones need not.
GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, elir, "Image restoration with ELIR bundles",
                  register_elements, ELIR_VERSION_TEXT, GST_LICENSE_UNKNOWN, "elir-deploy",
                  "elir-deploy")
