#include "elirrestore.hpp"

#define PACKAGE "elir-deploy"

namespace {

gboolean register_elements(GstPlugin* plugin) {
  return gst_element_register(plugin, "elirrestore", GST_RANK_NONE, GST_TYPE_ELIR_RESTORE);
}

}  // namespace

// GStreamer knows the names of few licences, and Apache-2.0 is not among them.
GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, elir, "Image restoration with ELIR bundles",
                  register_elements, ELIR_VERSION_TEXT, GST_LICENSE_UNKNOWN, "elir-deploy",
                  "elir-deploy")
