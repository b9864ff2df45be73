// Engines of face detectors, on stand-ins for both libraries and CUDA.
#include "choice.hpp"
#include "photo/detection.hpp"
#include "photo/opening.hpp"
#include "tensorrt_test.hpp"

namespace elir::core {
namespace {

class TensorRtDetectorTest : public TensorRtTest {
 protected:
  // With an engine of its face detector, which is also changed by `engine`.
  const Bundle& with_detector(const Golden& engine = {}) {
    options_.detector = test::detector_graph();
    const auto path = folder_.path() / "b";
    test::write_bundle(path, options_);
    Golden manifest = Golden::parse(std::ifstream(path / "bundle.json"));
    Golden& artifacts = manifest["detector"]["artifacts"];
    Golden entry = artifacts[0];
    entry.update({{"kind", "tensorrt"},
                  {"target", "sm86"},
                  {"tool_version", "10.3.0"},
                  {"file", "detector.engine"},
                  {"sha256", test::digest({kEngine.begin(), kEngine.end()})},
                  {"bytes", kEngine.size()}});
    if (!engine.is_null()) entry.update(engine);
    artifacts.push_back(std::move(entry));
    test::write_file(path / "detector.engine", kEngine);
    test::write_file(path / "bundle.json", manifest.dump());
    bundle_.emplace(path.string());
    tensorrt.landmarks = bundle_->manifest().detector->aligned.points;
    return *bundle_;
  }
  std::string detector_error(elir_status status, const Golden& engine = {}) {
    return error_of(status, [&] { backend().open_detector(with_detector(engine), setup_); });
  }

 private:
  static inline const std::string kEngine = "detector engine";
};

// Faces of the bundle's detector on a backend, in a dark picture with white blocks.
std::vector<Face> faces_in(DetectorNetwork& network, const Detector& detector, std::size_t width,
                           std::size_t height,
                           const std::vector<std::pair<std::size_t, std::size_t>>& at) {
  std::vector<std::uint8_t> pixels(3 * width * height, 20);
  for (const auto& [left, top] : at) {
    for (std::size_t y = top; y < top + 4; ++y) {
      std::fill_n(&pixels[3 * (y * width + left)], 12, std::uint8_t{255});
    }
  }
  return find_faces({{pixels.data(), static_cast<std::ptrdiff_t>(3 * width), width, height}, false},
                    detector, network, 1280);
}

TEST_F(TensorRtDetectorTest, FacesOfADetectorsEngine) {
  const Bundle& some = with_detector();
  const Detector& detector = *some.manifest().detector;
  const auto engine = backend().open_detector(some, setup_);
  const auto reference = backend_named("reference").open_detector(some, setup_);
  using Places = std::vector<std::pair<std::size_t, std::size_t>>;
  struct Case {
    std::size_t width;
    std::size_t height;
    Places at;
    int contexts;
  };
  for (const Case& each : std::vector<Case>{{400, 300, {{100, 100}, {396, 296}}, 1},
                                            {1278, 700, {{1272, 688}}, 1},
                                            {400, 1100, {{60, 60}, {392, 1092}}, 2},
                                            {1279, 1279, {{1272, 1272}, {4, 4}}, 3},
                                            {400, 300, {{200, 200}}, 3}}) {
    const auto seen = faces_in(*engine, detector, each.width, each.height, each.at);
    const auto expected = faces_in(*reference, detector, each.width, each.height, each.at);
    ASSERT_EQ(seen.size(), each.at.size());
    ASSERT_EQ(expected.size(), seen.size());
    for (std::size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].box, expected[i].box);
      EXPECT_EQ(seen[i].score, expected[i].score);
      for (std::size_t k = 0; k < 5; ++k) {
        EXPECT_EQ(seen[i].landmarks[k].x, expected[i].landmarks[k].x);
        EXPECT_EQ(seen[i].landmarks[k].y, expected[i].landmarks[k].y);
      }
    }
    EXPECT_EQ(tensorrt.contexts, each.contexts) << "one for each size, with its first picture";
  }
  EXPECT_FALSE(engine->size_for({1312, 32}));
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE,
                     [&] {
                       std::vector<std::uint8_t> wide(3 * 1400 * 8);
                       find_faces({{wide.data(), 3 * 1400, 1400, 8}, false}, detector, *engine,
                                  1400);
                     }),
            "the face detector takes no picture of 1408x32: search at a smaller long_side");
}

TEST_F(TensorRtDetectorTest, EnginesOfADetectorThatDoNotFit) {
  const std::string path = (folder_.path() / "b").string();
  const std::string then = ": elir-build " + path + " --device";
  EXPECT_EQ(detector_error(ELIR_ERROR_UNAVAILABLE, {{"kind", "tensorrt-rtx"}}),
            path + " has no tensorrt engine of its face detector" + then);
  EXPECT_EQ(detector_error(ELIR_ERROR_UNAVAILABLE, {{"target", "sm75"}}),
            "no tensorrt engine of " + path +
                " fits: it has engines for sm75 by 10.3.0, expected one for sm86 by tensorrt "
                "10.3.0" +
                then);
  EXPECT_NE(detector_error(ELIR_ERROR_UNAVAILABLE, {{"tool_version", "10.2.0"}})
                .find("it has engines for sm86 by 10.2.0"),
            std::string::npos);
  tensorrt.open_profiles = true;
  EXPECT_EQ(detector_error(ELIR_ERROR_BUNDLE),
            path +
                "/detector.engine: profile 0 is for input.1: float32 1x3x32x1280 to input.1: "
                "float32 1x3x960x1280, expected one picture of one size, with sides in multiples "
                "of 32 up to 16384");
  tensorrt.open_profiles = false;
  tensorrt.detector_profiles[2].width = 1290;
  EXPECT_NE(detector_error(ELIR_ERROR_BUNDLE).find("profile 2 is for"), std::string::npos);
  tensorrt.detector_input = "x";
  EXPECT_NE(detector_error(ELIR_ERROR_BUNDLE).find("the detector's input is x: float32 1x3x?x?"),
            std::string::npos);
  tensorrt.detector_input = "input.1";
  tensorrt.linear = false;
  EXPECT_NE(detector_error(ELIR_ERROR_BUNDLE).find("float32 in another format"), std::string::npos);
  cuda.devices = 0;
  EXPECT_EQ(detector_error(ELIR_ERROR_UNAVAILABLE).find("tensorrt cannot be used: "), 0U);
}

// A backend of the order of "auto", with the reference detector.
class OtherBackend final : public Backend {
 public:
  OtherBackend() : Backend({"onnxruntime", "onnx", {"fp32"}, true}) {}
  std::optional<std::string> available() const override { return std::nullopt; }
  std::vector<std::unique_ptr<Session>> open(const Bundle& /*bundle*/,
                                             const std::string& /*precision*/,
                                             const Setup& /*setup*/) const override {
    return {};
  }
  std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                 const Setup& setup) const override {
    return backend_named("reference").open_detector(bundle, setup);
  }
};

TEST_F(TensorRtDetectorTest, TheDetectorRunsElsewhereWhereItsEngineCannot) {
  const OtherBackend other;
  const Bundle& some = with_detector();
  const auto sizes_of = [&](std::int64_t long_side) {
    const auto network = open_detector("tensorrt", some, setup_, long_side, {&other, &backend()});
    return network->sizes().size();
  };
  const std::string elsewhere = "the face detector runs on onnxruntime: tensorrt: ";
  EXPECT_EQ(sizes_of(1280), 3U);
  EXPECT_EQ(sizes_of(640), 3U);
  EXPECT_TRUE(warnings_.empty());
  EXPECT_EQ(sizes_of(1920), 0U);
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_EQ(warnings_[0], elsewhere +
                              "its engine takes pictures of 1280x960, 960x1280, 1280x1280, a long "
                              "side of 1920 needs up to 1920x1920");
  tensorrt.enqueue_fails = true;
  tensorrt.refusal = nullptr;
  EXPECT_EQ(sizes_of(1280), 3U) << "the stand-in fails only with a reason";
  tensorrt.refusal = "Error Code 7: no";
  EXPECT_EQ(sizes_of(1280), 0U);
  EXPECT_EQ(warnings_.back().find(elsewhere), 0U) << warnings_.back();
  tensorrt = StandInTensorRt();
  tensorrt.open_profiles = true;
  EXPECT_EQ(sizes_of(1280), 0U) << "the graph is whole";
  EXPECT_NE(warnings_.back().find("profile 0 is for"), std::string::npos);
}

TEST_F(TensorRtDetectorTest, RunsOfADetectorThatFail) {
  const auto engine = backend().open_detector(with_detector(), setup_);
  std::vector<float> picture(3 * 960 * 1280);
  const auto run = [&] { engine->run(picture.data(), 960, 1280); };
  tensorrt.unknown_outputs = true;
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, run),
            "tensorrt 10.3.0: the output of the face detector is 537: float32 1x1x?x320, expected "
            "at most 1073741824 bytes; the session remains usable");
  tensorrt.unknown_outputs = false;
  tensorrt.refusal = "Error Code 7: no";
  EXPECT_EQ(error_of(ELIR_ERROR_UNAVAILABLE, run),
            "tensorrt 10.3.0: createExecutionContext of the face detector failed: Error Code 7: "
            "no; the session remains usable");
  tensorrt.refusal = nullptr;
  EXPECT_EQ(tensorrt.contexts, 0);
  run();
  tensorrt.enqueue_fails = true;
  tensorrt.refusal = "Error Code 8: no";
  EXPECT_NE(error_of(ELIR_ERROR_UNAVAILABLE, run).find("enqueueV3 of the face detector failed"),
            std::string::npos);
  EXPECT_TRUE(cuda.last_stream->queued.empty());
  cuda.lost = true;
  EXPECT_NE(error_of(ELIR_ERROR_UNAVAILABLE, run).find("CUDA device 0 is lost"), std::string::npos);
  cuda.lost = false;
}

}  // namespace
}  // namespace elir::core
