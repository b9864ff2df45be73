#include "caps.hpp"

#include <cstdint>

namespace elir::gstreamer {
namespace {

constexpr const char* kFormats[] = {"RGB", "BGR"};

// A ratio of sizes.
struct Ratio {
  int numerator;
  int denominator;

  std::int64_t down(int side) const { return std::int64_t{side} * numerator / denominator; }
  std::int64_t up(int side) const {
    return (std::int64_t{side} * numerator + denominator - 1) / denominator;
  }
};

// Sets `to` to the sides in `from`, times `ratio`. Returns false if none is left.
bool multiply(const GValue* from, const Ratio& ratio, GValue* to) {
  if (G_VALUE_HOLDS_INT(from)) {
    const int side = g_value_get_int(from);
    const std::int64_t result = ratio.down(side);
    if (result != ratio.up(side) || result < 1 || result > G_MAXINT) return false;
    g_value_init(to, G_TYPE_INT);
    g_value_set_int(to, static_cast<int>(result));
    return true;
  }
  if (GST_VALUE_HOLDS_INT_RANGE(from)) {
    const std::int64_t least = ratio.up(gst_value_get_int_range_min(from));
    const std::int64_t most = ratio.down(gst_value_get_int_range_max(from));
    if (least > most || least > G_MAXINT) return false;
    const int last = static_cast<int>(most > G_MAXINT ? G_MAXINT : most);
    if (least == last) {
      g_value_init(to, G_TYPE_INT);
      g_value_set_int(to, last);
    } else {
      g_value_init(to, GST_TYPE_INT_RANGE);
      gst_value_set_int_range(to, static_cast<int>(least), last);
    }
    return true;
  }
  if (!GST_VALUE_HOLDS_LIST(from)) return false;
  g_value_init(to, GST_TYPE_LIST);
  for (guint i = 0; i < gst_value_list_get_size(from); ++i) {
    GValue side = G_VALUE_INIT;
    if (multiply(gst_value_list_get_value(from, i), ratio, &side)) {
      gst_value_list_append_and_take_value(to, &side);
    }
  }
  if (gst_value_list_get_size(to) > 0) return true;
  g_value_unset(to);
  return false;
}

bool multiply_field(GstStructure* structure, const char* name, const Ratio& ratio) {
  if (ratio.numerator == 0) {
    gst_structure_set(structure, name, GST_TYPE_INT_RANGE, 1, G_MAXINT, nullptr);
    return true;
  }
  const GValue* const sides = gst_structure_get_value(structure, name);
  if (sides == nullptr) return true;
  GValue result = G_VALUE_INIT;
  if (!multiply(sides, ratio, &result)) return false;
  gst_structure_take_value(structure, name, &result);
  return true;
}

void allow_all_formats(GstStructure* structure) {
  GValue formats = G_VALUE_INIT;
  g_value_init(&formats, GST_TYPE_LIST);
  for (const char* name : kFormats) {
    GValue format = G_VALUE_INIT;
    g_value_init(&format, G_TYPE_STRING);
    g_value_set_static_string(&format, name);
    gst_value_list_append_and_take_value(&formats, &format);
  }
  gst_structure_take_value(structure, "format", &formats);
}

}  // namespace

GstCaps* scale_caps(const GstCaps* caps, int numerator, int denominator) {
  GstCaps* const result = gst_caps_new_empty();
  for (guint i = 0; i < gst_caps_get_size(caps); ++i) {
    GstStructure* const structure = gst_structure_copy(gst_caps_get_structure(caps, i));
    const Ratio ratio{numerator, denominator};
    if (multiply_field(structure, "width", ratio) && multiply_field(structure, "height", ratio)) {
      allow_all_formats(structure);
      gst_caps_append_structure(result, structure);
    } else {
      gst_structure_free(structure);
    }
  }
  return result;
}

GstCaps* prefer_format(const GstCaps* caps, GstCaps* others) {
  const char* const format = gst_structure_get_string(gst_caps_get_structure(caps, 0), "format");
  others = gst_caps_make_writable(others);
  for (guint i = 0; format != nullptr && i < gst_caps_get_size(others); ++i) {
    gst_structure_fixate_field_string(gst_caps_get_structure(others, i), "format", format);
  }
  return others;
}

}  // namespace elir::gstreamer
