#include "properties.hpp"

namespace elir::gstreamer {
namespace {

GType faces_type() {
  static const GEnumValue values[] = {
      {kFacesDefault, "auto if the bundle has a face detector, else the frame as a whole",
       "default"},
      {ELIR_FACES_AUTO, "the frame as one square if it shows one aligned face, else all faces",
       "auto"},
      {ELIR_FACES_ALL, "all faces that are found", "all"},
      {ELIR_FACES_LARGEST, "the face with the largest box", "largest"},
      {ELIR_FACES_CENTRE, "the face closest to the centre of the frame", "centre"},
      {ELIR_FACES_ALIGNED, "the frame is one aligned face", "aligned"},
      {0, nullptr, nullptr},
  };
  static const GType type = g_enum_register_static("GstElirFaces", values);
  return type;
}

constexpr auto kReadable = static_cast<GParamFlags>(G_PARAM_READABLE | G_PARAM_STATIC_STRINGS);
constexpr auto kSetting =
    static_cast<GParamFlags>(G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_READY);

std::string text_of(const GValue* value) {
  const char* const text = g_value_get_string(value);
  return text == nullptr ? "" : text;
}

}  // namespace

void install_properties(GObjectClass* klass) {
  const Settings defaults;
  const auto add = [klass](guint id, GParamSpec* spec) {
    g_object_class_install_property(klass, id, spec);
  };
  add(kBundle,
      g_param_spec_string("bundle", "Bundle", "Folder that elir-export wrote", nullptr, kSetting));
  add(kBackend,
      g_param_spec_string("backend", "Backend", "Library that runs the bundle; auto: the fastest",
                          defaults.backend.c_str(), kSetting));
  add(kPrecision, g_param_spec_string("precision", "Precision",
                                      "fp32, fp16, bf16, int8 or w8; unset: the fastest that the "
                                      "bundle allows by default",
                                      nullptr, kSetting));
  add(kDevice, g_param_spec_int("device", "Device", "Index of the GPU", 0, 65536, defaults.device,
                                kSetting));
  add(kDeviceName, g_param_spec_string("device-name", "Device name",
                                       "One of OpenVINO's devices, such as GPU, GPU.1 or NPU",
                                       nullptr, kSetting));
  add(kFaces,
      g_param_spec_enum("faces", "Faces", "Which faces are restored, with a bundle for faces",
                        faces_type(), defaults.faces, kSetting));
  add(kStrength, g_param_spec_double("strength", "Strength", "How much of the restoration is kept",
                                     0, 1, defaults.strength, kSetting));
  add(kSigmaS,
      g_param_spec_double("sigma-s", "Sigma_s", "Standard deviation of the noise; -1: the bundle's",
                          -1, G_MAXDOUBLE, defaults.sigma_s, kSetting));
  add(kSeed, g_param_spec_int64("seed", "Seed", "Seed of the noise; -1: the bundle's", -1,
                                G_MAXUINT32, defaults.seed, kSetting));
  add(kRestored, g_param_spec_uint64("restored", "Restored", "Frames restored since the start", 0,
                                     G_MAXUINT64, 0, kReadable));
  add(kDropped, g_param_spec_uint64("dropped", "Dropped",
                                    "Frames dropped since the start, because they were late", 0,
                                    G_MAXUINT64, 0, kReadable));
}

void write_setting(Settings& settings, guint id, const GValue* value) {
  switch (id) {
    case kBundle:
      settings.bundle = text_of(value);
      break;
    case kBackend:
      settings.backend = text_of(value);
      break;
    case kPrecision:
      settings.precision = text_of(value);
      break;
    case kDevice:
      settings.device = g_value_get_int(value);
      break;
    case kDeviceName:
      settings.device_name = text_of(value);
      break;
    case kFaces:
      settings.faces = g_value_get_enum(value);
      break;
    case kStrength:
      settings.strength = g_value_get_double(value);
      break;
    case kSigmaS:
      settings.sigma_s = g_value_get_double(value);
      break;
    case kSeed:
      settings.seed = g_value_get_int64(value);
      break;
    default:
      break;
  }
}

void read_setting(const Settings& settings, guint id, GValue* value) {
  const auto text_or_unset = [value](const std::string& text) {
    g_value_set_string(value, text.empty() ? nullptr : text.c_str());
  };
  switch (id) {
    case kBundle:
      return text_or_unset(settings.bundle);
    case kBackend:
      return text_or_unset(settings.backend);
    case kPrecision:
      return text_or_unset(settings.precision);
    case kDevice:
      return g_value_set_int(value, settings.device);
    case kDeviceName:
      return text_or_unset(settings.device_name);
    case kFaces:
      return g_value_set_enum(value, settings.faces);
    case kStrength:
      return g_value_set_double(value, settings.strength);
    case kSigmaS:
      return g_value_set_double(value, settings.sigma_s);
    case kSeed:
      return g_value_set_int64(value, settings.seed);
    default:
      break;
  }
}

}  // namespace elir::gstreamer
