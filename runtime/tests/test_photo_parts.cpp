// The parts of restoring photographs compared with the Python runtime's results:
// tests/golden/photos.py.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "golden.hpp"
#include "guard.hpp"
#include "photo/detection.hpp"
#include "photo/paste.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

using test::Golden;

const Golden& photos() { return test::golden("photos.json"); }

struct OutputRange {
  std::string name;
  std::string meaning;
  std::int64_t channels;
  std::int64_t stride;
  double least;
  double extent;
};

std::vector<OutputRange> ranges_of(const std::string& decoder) {
  if (decoder == "centerface") {
    return {{"537", "heat", 1, 4, 0, 1},
            {"538", "log_size", 2, 4, 0, 4},
            {"539", "offset", 2, 4, -0.5, 1},
            {"540", "landmarks", 10, 4, -0.5, 2}};
  }
  std::vector<OutputRange> ranges;
  for (const std::int64_t stride : {8, 16, 32}) {
    const std::string end = "_" + std::to_string(stride);
    ranges.push_back({"cls" + end, "class", 1, stride, 0, 1});
    ranges.push_back({"obj" + end, "object", 1, stride, 0, 1});
    ranges.push_back({"bbox" + end, "box", 4, stride, -0.5, 4});
    ranges.push_back({"kps" + end, "landmarks", 10, stride, -0.5, 2});
  }
  return ranges;
}

Detector detector_named(const std::string& decoder) {
  Detector detector{decoder, "input", {}, false, 32, 1280, 0.5, 0.3, {{}, 512}, {}};
  for (std::size_t i = 0; i < 5; ++i) {
    detector.aligned.points[i] = {photos()["template"][i][0], photos()["template"][i][1]};
  }
  for (const auto& range : ranges_of(decoder)) {
    detector.outputs[range.name] = range.meaning + "_" + std::to_string(range.stride);
  }
  return detector;
}

// Outputs by the formula of `tensors` in golden/photos.py.
class FormulaNetwork final : public DetectorNetwork {
 public:
  FormulaNetwork(const std::string& decoder, std::uint64_t seed)
      : ranges_(ranges_of(decoder)), list_(decoder == "yunet"), seed_(seed) {}

  std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                  std::int64_t width) override {
    seen.assign(picture, picture + 3 * height * width);
    sides = {height, width};
    std::vector<DetectorOutput> outputs;
    values.assign(ranges_.size(), {});
    for (std::size_t number = 0; number < ranges_.size(); ++number) {
      const auto& [name, meaning, channels, stride, least, extent] = ranges_[number];
      const std::int64_t rows = height / stride;
      const std::int64_t columns = width / stride;
      const std::int64_t cells = rows * columns;
      for (std::int64_t i = 0; i < channels * cells; ++i) {
        const std::int64_t cell = list_ ? i / channels : i % cells;
        const std::int64_t channel = list_ ? i % channels : i / cells;
        const std::uint64_t value = static_cast<std::uint64_t>(cell) * 40503 +
                                    static_cast<std::uint64_t>(channel) * 97 + number * 7919 +
                                    seed_ * 104729;
        const std::uint64_t mixed = (value ^ (value >> 7U)) * 0x9E3779B1U;
        const double share = static_cast<double>((mixed >> 13U) & 0xFFFFU) / 65536;
        values[number].push_back(static_cast<float>(least + extent * share));
      }
      outputs.push_back({{name, "float32",
                          list_ ? std::vector{std::int64_t{1}, cells, channels}
                                : std::vector{std::int64_t{1}, channels, rows, columns}},
                         values[number].data()});
    }
    if (change) change(outputs);
    return outputs;
  }

  std::vector<float> seen;
  std::array<std::int64_t, 2> sides{};
  std::vector<std::vector<float>> values;
  std::function<void(std::vector<DetectorOutput>&)> change;

 private:
  std::vector<OutputRange> ranges_;
  bool list_;
  std::uint64_t seed_;
};

Points points_of(const Golden& numbers) {
  Points points{};
  for (std::size_t i = 0; i < 5; ++i) points[i] = {numbers[2 * i], numbers[2 * i + 1]};
  return points;
}

TEST(PhotoParts, Decoding) {
  for (const Golden& golden : photos()["decoded"]) {
    const Detector detector = detector_named(golden["decoder"]);
    FormulaNetwork network(detector.decoder, golden["seed"]);
    const std::int64_t height = golden["height"];
    const std::int64_t width = golden["width"];
    std::vector<float> picture(static_cast<std::size_t>(3 * height * width));
    const auto detections =
        decode(convention_of(detector), network.run(picture.data(), height, width), height, width,
               golden["threshold"], {height, width});
    Golden places = Golden::array();
    Golden scores = Golden::array();
    for (const Face& face :
         suppress(detections, golden["overlap"], golden["across"], golden["down"])) {
      Golden place = face.box;
      for (const Point& point : face.landmarks) {
        place.push_back(point.x);
        place.push_back(point.y);
      }
      places.push_back(place);
      scores.push_back(face.score);
    }
    EXPECT_EQ(places, golden["places"]) << detector.decoder;
    EXPECT_EQ(scores, golden["scores"]) << detector.decoder;
  }
}

TEST(PhotoParts, WhatADetectorSees) {
  std::uint64_t seed = 0;
  for (const Golden& golden : photos()["viewed"]) {
    const std::size_t height = golden["height"];
    const std::size_t width = golden["width"];
    const auto pixels = test::pattern(width, height, seed++ / 2);
    Detector detector = detector_named("centerface");
    detector.bgr = golden["color"] == "BGR";
    detector.score_threshold = 2;  // no face
    FormulaNetwork network("centerface", 0);
    const Photograph picture{packed(pixels.data(), width, height), false};
    EXPECT_TRUE(find_faces(picture, detector, network, golden["long_side"]).empty());
    EXPECT_EQ(Golden(network.sides), golden["sides"]);
    EXPECT_EQ(test::digest({network.seen.begin(), network.seen.end()}), golden["tensor"]);
    const Shrinking shrinking = shrinking_of(static_cast<std::int64_t>(height),
                                             static_cast<std::int64_t>(width), golden["long_side"]);
    EXPECT_EQ((Golden{shrinking.across, shrinking.down}), golden["scale"]);
  }
}

TEST(PhotoParts, Squares) {
  const std::size_t width = photos()["picture"]["width"];
  const std::size_t height = photos()["picture"]["height"];
  const auto pixels = test::pattern(width, height, photos()["picture"]["seed"]);
  const Photograph picture{packed(pixels.data(), width, height), false};
  for (const Golden& golden : photos()["squares"]) {
    const std::int64_t side = golden["side"];
    const Points square = template_units(detector_named("yunet").aligned, side);
    const Points landmarks = points_of(photos()["places"][golden["place"].get<std::size_t>()]);
    const char* const reason = reason_not_alignable(
        square, landmarks, side, static_cast<std::int64_t>(std::max(width, height)));
    EXPECT_EQ(reason == nullptr, golden.contains("crop")) << golden;
    if (reason != nullptr) continue;
    const Similarity similarity = fit(square, landmarks);
    Golden numbers = Golden::array();
    for (const auto& [a, b, x, y] : {similarity, similarity.inverse(), similarity.shrunk(3)}) {
      numbers.push_back({a, b, x, y});
    }
    EXPECT_EQ(numbers, golden["similarity"]);
    EXPECT_EQ(similarity.reduction(), golden["reduction"]);
    const auto [left, top, right, bottom] = Ellipse(side).bounds(similarity, width, height);
    EXPECT_EQ((Golden{top, left, bottom, right}), golden["mask"]);
    const auto across = static_cast<std::size_t>(side);
    std::vector<std::uint8_t> result(3 * across * across);
    crop(picture, similarity, packed(result.data(), across, across));
    EXPECT_EQ(test::digest(result), golden["crop"]) << golden;
  }
}

TEST(PhotoParts, WhatANetworkMustNotCompute) {
  using Outputs = std::vector<DetectorOutput>;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const std::string decoder : {"centerface", "yunet"}) {
    FormulaNetwork network(decoder, 0);
    const auto all = [&](std::size_t output, float value) {
      return [&network, output, value](Outputs&) {
        for (std::size_t i = output; i < network.values.size(); i += 4) {
          std::fill(network.values[i].begin(), network.values[i].end(), value);
        }
      };
    };
    const std::size_t sizes = decoder == "yunet" ? 2 : 1;
    const std::vector<std::pair<std::function<void(Outputs&)>, std::string>> cases = {
        {[](Outputs& outputs) { outputs[0].end.sides = {1, 7, 1}; }, "float32 1x7x1, expected"},
        {[](Outputs& outputs) { outputs[0].end.sides[1] = 5'000'000; }, "5000000"},
        {[](Outputs& outputs) { outputs[1].end.dtype = "another type"; }, "another type"},
        {[](Outputs& outputs) { outputs.pop_back(); }, " is missing, expected"},
        {[](Outputs& outputs) { outputs.clear(); }, " is missing, expected"},
        {[&](Outputs&) { network.values[0][3] = kNaN; }, "scores that are not finite"},
        {all(sizes, 800), "further than 65536 pixels away, or not finite"},
        {all(sizes, kNaN), "further than 65536 pixels away, or not finite"},
        {all(3, 1e9F), "further than 65536 pixels away, or not finite"},
        {all(3, 0.5F), "a face with all landmarks in one point"},
        {all(3, kNaN), "further than 65536 pixels away, or not finite"},
    };
    const auto pixels = test::pattern(90, 70, 0);
    const Photograph picture{packed(pixels.data(), 90, 70), false};
    for (const auto& [change, message] : cases) {
      network.change = change;
      const elir_status status =
          guarded([&] { find_faces(picture, detector_named(decoder), network, 1280); });
      EXPECT_EQ(status, ELIR_ERROR_BUNDLE) << message;
      EXPECT_NE(std::string(last_error).find("face detector " + decoder), std::string::npos);
      EXPECT_NE(std::string(last_error).find(message), std::string::npos) << last_error;
    }
  }
}

TEST(PhotoParts, DetectorsThatAreNotKnown) {
  Detector detector = detector_named("yunet");
  detector.outputs["cls_8"] = "object_8";
  EXPECT_EQ(guarded([&] { convention_of(detector); }), ELIR_ERROR_BUNDLE);
  EXPECT_NE(std::string(last_error).find("are not those of yunet"), std::string::npos);
  detector.decoder = "retinaface";
  EXPECT_EQ(guarded([&] { convention_of(detector); }), ELIR_ERROR_BUNDLE);
  EXPECT_NE(std::string(last_error).find("retinaface, expected one of centerface, yunet"),
            std::string::npos);
}

TEST(PhotoParts, TooManyFaces) {
  const auto pixels = test::pattern(600, 600, 0);
  FormulaNetwork network("centerface", 0);
  const Photograph picture{packed(pixels.data(), 600, 600), false};
  Detector detector = detector_named("centerface");
  detector.score_threshold = 0;
  EXPECT_EQ(guarded([&] { find_faces(picture, detector, network, 1280); }), ELIR_ERROR_IMAGE);
  EXPECT_NE(std::string(last_error).find("more than 20000 possible faces"), std::string::npos);
}

TEST(PhotoParts, SuppressionOfVeryManyBoxesEnds) {
  std::vector<Detection> detections;
  for (int i = 0; i < 20000; ++i) {
    const double left = 3.0 * i;
    detections.push_back({1.0, {left, 0, left + 2, 2}, {}});
  }
  const std::vector<Face> faces = suppress(detections, 0.3, 1, 1);
  ASSERT_EQ(faces.size(), kMaxFaces + 1);
  EXPECT_EQ(faces.back().box[0], 3 * 64 * static_cast<std::int64_t>(kMaxFaces));
}

TEST(PhotoParts, BoxesBeyondTheCoordinatesOfFaces) {
  const Detection far{1.0, {0, 0, 65536, 65536}, {}};
  EXPECT_EQ(guarded([&] { suppress({far}, 0.3, 17, 17); }), ELIR_ERROR_IMAGE);
  EXPECT_EQ(guarded([&] { suppress({far}, 0.3, 16, 16); }), ELIR_OK);
}

TEST(PhotoParts, SquareRoots) {
  EXPECT_EQ(static_cast<int>(square_root(0)), 0);
  for (const std::int64_t root : {1L, 2L, 1000L, (1L << 31) + 1, (1L << 61) + 5}) {
    const Wide square = Wide{root} * root;
    EXPECT_EQ(static_cast<std::int64_t>(square_root(square)), root);
    EXPECT_EQ(static_cast<std::int64_t>(square_root(square + 2 * root)), root);
    EXPECT_EQ(static_cast<std::int64_t>(square_root(square - 1)), root - 1);
  }
}

}  // namespace
}  // namespace elir::core
