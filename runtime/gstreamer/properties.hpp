// The properties of elirrestore.
#pragma once

#include <gst/gst.h>

#include "frame_restorer.hpp"

namespace elir::gstreamer {

enum Property : guint {
  kBundle = 1,
  kBackend,
  kPrecision,
  kDevice,
  kDeviceName,
  kFaces,
  kStrength,
  kSigmaS,
  kSeed,
  kRestored,  // this and the next one are counters of the element, not settings
  kDropped,
};

void install_properties(GObjectClass* klass);

void write_setting(Settings& settings, guint id, const GValue* value);
void read_setting(const Settings& settings, guint id, GValue* value);

}  // namespace elir::gstreamer
