// Sizes and formats of frames before and behind the element.
#pragma once

#include <gst/gst.h>

namespace elir::gstreamer {

// What the element turns `caps` into: width and height times `numerator` / `denominator`, as far as
// they are whole, and either format. A numerator of 0 gives any size.
GstCaps* scale_caps(const GstCaps* caps, int numerator, int denominator);

// Chooses the format of `caps`, which are fixed, where `others` allow it. Takes `others`.
GstCaps* prefer_format(const GstCaps* caps, GstCaps* others);

}  // namespace elir::gstreamer
