// What goes wrong in the GStreamer element is a message on the bus, and it can start again.
#include <fstream>
#include <iterator>

#include "element_harness.hpp"

namespace elir {
namespace {

using test::BundleOptions;
using test::ElementTest;
using test::Harness;
using test::Owned;

struct Misuse {
  const char* name;
  void (*change)(GstElement* element, const std::string& bundle);
  GQuark (*domain)();
  int code;
  const char* message;
};

class ElementMisuse : public ElementTest, public ::testing::WithParamInterface<Misuse> {};

TEST_P(ElementMisuse, IsAnErrorOnTheBus) {
  const std::string path = bundle();
  const auto element = test::elirrestore(path);
  GetParam().change(element.get(), path);
  const Owned<GstBus> bus(gst_bus_new());
  gst_element_set_bus(element.get(), bus.get());
  EXPECT_EQ(gst_element_set_state(element.get(), GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  const test::Posted posted = test::next_message(bus.get(), GST_MESSAGE_ERROR);
  EXPECT_NE(posted.text.find(GetParam().message), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GetParam().domain());
  EXPECT_EQ(posted.code, GetParam().code);
  gst_element_set_state(element.get(), GST_STATE_NULL);
  g_object_set(element.get(), "bundle", bundle().c_str(), "backend", "reference", "device", 0,
               "device-name", nullptr, "sigma-s", -1.0, nullptr);
  gst_util_set_object_arg(G_OBJECT(element.get()), "faces", "default");
  EXPECT_NE(gst_element_set_state(element.get(), GST_STATE_PAUSED), GST_STATE_CHANGE_FAILURE);
  gst_element_set_state(element.get(), GST_STATE_NULL);
  gst_element_set_bus(element.get(), nullptr);
}

INSTANTIATE_TEST_SUITE_P(
    All, ElementMisuse,
    ::testing::Values(
        Misuse{"NoBundle",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "bundle", nullptr, nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "the property bundle is not set: set it to the folder that elir-export wrote"},
        Misuse{"MissingBundle",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "bundle", "/nowhere", nullptr);
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "/nowhere"},
        Misuse{"DamagedBundle",
               [](GstElement*, const std::string& bundle) {
                 test::write_file(bundle + "/bundle.json", "{");
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "bundle.json"},
        Misuse{"UnknownBackend",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "backend", "abacus", nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS, "abacus"},
        Misuse{"DeviceThatTheBackendLacks",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "device-name", "gpu.1", nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "reference has no device 'GPU.1'"},
        Misuse{"TwoDevices",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "device", 1, "device-name", "NPU", nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "device is 1 and device_name NPU: set one of them"},
        Misuse{"NoiseThatIsAConstant",
               [](GstElement* element, const std::string&) {
                 g_object_set(element, "sigma-s", 0.5, nullptr);
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS, "sigma_s is set"},
        Misuse{"FacesOfABundleForPictures",
               [](GstElement* element, const std::string&) {
                 gst_util_set_object_arg(G_OBJECT(element), "faces", "all");
               },
               gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS,
               "the property faces is for bundles of faces"},
        Misuse{"FacesWithoutDetector",
               [](GstElement* element, const std::string& bundle) {
                 BundleOptions options;
                 options.faces = true;
                 test::write_bundle(bundle + "/faces", options);
                 g_object_set(element, "bundle", (bundle + "/faces").c_str(), nullptr);
                 gst_util_set_object_arg(G_OBJECT(element), "faces", "largest");
               },
               gst_resource_error_quark, GST_RESOURCE_ERROR_READ, "has no face detector"}),
    [](const auto& each) { return each.param.name; });

TEST_F(ElementTest, AFrameThatFailsIsAnErrorOnTheBus) {
  BundleOptions options;
  options.side = 8;  // too small for squares of faces, which only the first photograph finds out
  options.faces = true;
  options.detector = test::detector_graph();
  Harness harness(test::elirrestore(bundle(options)));
  harness.set_caps(test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40));
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_ERROR);
  const test::Posted posted = test::next_message(harness.bus(), GST_MESSAGE_ERROR);
  EXPECT_NE(posted.text.find("squares of aligned faces"), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GST_LIBRARY_ERROR);
  EXPECT_EQ(harness.counter("restored"), 0U);
}

TEST_F(ElementTest, WarningsAreOnTheBus) {
  const std::string path = bundle();
  const std::string file = path + "/bundle.json";
  std::ifstream source(file);
  std::string manifest(std::istreambuf_iterator<char>(source), {});
  const std::string key = "\"random\": false";
  manifest.replace(manifest.find(key), key.size(), "\"random\": true");
  test::write_file(file, manifest);
  const Harness harness(test::elirrestore(path));
  EXPECT_NE(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text.find("random weights"),
            std::string::npos);
  g_object_set(harness.element(), "strength", 0.5, nullptr);
  EXPECT_EQ(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text,
            "the property strength was not changed, because the element runs: set its state to "
            "READY first");
  double strength = 0;
  g_object_get(harness.element(), "strength", &strength, nullptr);
  EXPECT_EQ(strength, 1);
}

TEST_F(ElementTest, InterlacedFramesAreRestoredWithAWarning) {
  Harness harness(test::elirrestore(bundle()));
  GstVideoInfo info = test::info_of(GST_VIDEO_FORMAT_RGB, 50, 40);
  harness.set_caps(info);
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_OK);
  EXPECT_EQ(test::next_message(harness.bus(), GST_MESSAGE_WARNING).text, "");
  GST_VIDEO_INFO_INTERLACE_MODE(&info) = GST_VIDEO_INTERLACE_MODE_INTERLEAVED;
  harness.set_caps(info);
  EXPECT_EQ(harness.push(test::pattern(50, 40, 1)), GST_FLOW_OK);
  const test::Posted posted = test::next_message(harness.bus(), GST_MESSAGE_WARNING);
  EXPECT_NE(posted.text.find("interlaced"), std::string::npos) << posted.text;
  EXPECT_EQ(posted.domain, GST_STREAM_ERROR);
  EXPECT_EQ(posted.code, GST_STREAM_ERROR_FORMAT);
}

// A bundle may take minutes to open.
TEST_F(ElementTest, OpensTheBundleAgainOnlyForOtherProperties) {
  const std::string path = bundle();
  const auto element = test::elirrestore(path);
  const auto starts = [&] {
    return gst_element_set_state(element.get(), GST_STATE_PAUSED) != GST_STATE_CHANGE_FAILURE;
  };
  ASSERT_TRUE(starts());
  std::filesystem::rename(path, path + ".away");
  gst_element_set_state(element.get(), GST_STATE_READY);
  EXPECT_TRUE(starts());
  gst_element_set_state(element.get(), GST_STATE_READY);
  g_object_set(element.get(), "strength", 0.5, nullptr);
  EXPECT_FALSE(starts());
  std::filesystem::rename(path + ".away", path);
  EXPECT_TRUE(starts());
  std::filesystem::rename(path, path + ".away");
  gst_element_set_state(element.get(), GST_STATE_NULL);
  EXPECT_FALSE(starts());
  gst_element_set_state(element.get(), GST_STATE_NULL);
}

}  // namespace
}  // namespace elir
