// Hostile manifests, compared with the Python runtime's decisions: tests/golden/make.py.
#include <gtest/gtest.h>

#include "embedded.hpp"
#include "error.hpp"
#include "golden.hpp"
#include "json.hpp"
#include "manifest.hpp"

namespace elir::core {
namespace {

using test::Golden;

// The error; empty for a valid manifest.
std::string refusal(const std::string& manifest) {
  try {
    read_manifest(manifest);
    return "";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE) << failure.what();
    return failure.what();
  }
}

const Golden& base(const char* name) { return test::golden("manifests.json")["bases"][name]; }

TEST(Manifest, RefusesWhatPythonRefuses) {
  const Golden& all = test::golden("manifests.json");
  ASSERT_GT(all["cases"].size(), 150U);
  for (const Golden& golden : all["cases"]) {
    const Golden manifest = all["bases"][golden["base"].get<std::string>()].patch(golden["patch"]);
    EXPECT_EQ(!refusal(manifest.dump()).empty(), golden["refused"].get<bool>()) << golden;
  }
}

TEST(Manifest, DamagedText) {
  for (const std::string hex : test::golden("manifests.json")["damaged"]) {
    std::string data;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      data += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    EXPECT_NE(refusal(data), "") << data;
  }
}

TEST(Manifest, ErrorsHavePointerValueAndRule) {
  const auto error_of = [](const char* operation, const char* path, const Golden& value) {
    const Golden patch = {{{"op", operation}, {"path", path}, {"value", value}}};
    return refusal(base("fused").patch(patch).dump());
  };
  EXPECT_EQ(error_of("replace", "/model/steps", 1001),
            "/model/steps is 1001, expected maximum 1000");
  EXPECT_EQ(error_of("remove", "/stages/0/artifacts/1/kind", nullptr),
            "/stages/0/artifacts/1/kind is missing");
  EXPECT_EQ(error_of("add", "/model/a~1b", 1), "/model/a~1b is not an entry of the format");
  EXPECT_EQ(error_of("replace", "/source/sha256", "abc").find("/source/sha256 is \"abc\", "), 0U);
}

TEST(Manifest, DeepAndLongText) {
  const std::string begin = R"({"format": "elir-bundle", "a": )";
  EXPECT_EQ(refusal(begin + std::string(2000000, '[')), "damaged: nested too deeply");
  EXPECT_EQ(refusal(begin + std::string(10000, '9') + "}").substr(0, 9), "damaged: ");
  EXPECT_NE(refusal(begin + '"' + std::string(2000000, 'a') + "\"}"), "");
}

TEST(Manifest, MillionEntriesAreFast) {
  std::string manifest = R"({"format": "elir-bundle")";
  for (int i = 0; i < 1000000; ++i) manifest += ",\"" + std::to_string(i) + "\":0";
  EXPECT_NE(refusal(manifest + "}"), "");
}

TEST(Manifest, LongStringsDoNotOverflowTheStack) {
  Golden manifest = base("fused");
  manifest["stages"][0]["artifacts"][0]["sha256"] = std::string(5000000, '0');
  EXPECT_NE(refusal(manifest.dump()), "");
  EXPECT_THROW(Schema(parse_json(R"({"pattern": "^(a|b)*$"})")).check(std::string(5000000, 'a')),
               Failure);
}

TEST(Manifest, TypedValues) {
  const Manifest manifest = read_manifest(base("split").dump());
  EXPECT_EQ(manifest.task, "tiny");
  ASSERT_EQ(manifest.stages.size(), 4U);
  const Shape& shape = manifest.shapes.front();
  EXPECT_EQ(manifest.stages[1].input.end(shape).describe(), "z0: float32 1x16x4x4");
  EXPECT_EQ(manifest.stages[1].ends(manifest.graph_shape()).inputs[0].describe(),
            "z0: float32 1x16x4x4");
  EXPECT_EQ(manifest.stages[1].input.layout, Layout::nchw);
  EXPECT_EQ(manifest.stages[1].input.bytes(shape), 1024U);
  EXPECT_EQ(manifest.verified("bf16")->psnr_db, 70.5);
  EXPECT_EQ(manifest.verified("int8"), nullptr);
  EXPECT_EQ(manifest.files.size(), 13U);
}

TEST(Manifest, ShapesOfGraphs) {
  const auto ends = [](const Golden& manifest) {
    const Manifest read = read_manifest(manifest.dump());
    return read.stages.front().ends(read.graph_shape());
  };
  Golden manifest = base("field");  // with batches, and of two sizes
  EXPECT_EQ(ends(manifest).inputs.at(0).describe(), "image: uint8 ?x?x?x3");
  EXPECT_EQ(ends(manifest).inputs.at(1).describe(), "noise: float32 ?x16x?x?");
  EXPECT_EQ(ends(manifest).outputs.at(0).describe(), "restored: uint8 ?x?x?x3");
  manifest["shapes"][0]["batch"] = 1;
  EXPECT_EQ(ends(manifest).inputs.at(1).describe(), "noise: float32 1x16x?x?");
  manifest["shapes"].erase(0);
  EXPECT_EQ(ends(manifest).inputs.at(0).describe(), "image: uint8 1x32x64x3") << "padded";
  manifest["shapes"][0]["batch"] = 8;
  EXPECT_EQ(ends(manifest).inputs.at(1).describe(), "noise: float32 ?x16x4x8");
}

TEST(Manifest, Engines) {
  const Manifest manifest = read_manifest(base("engines").dump());
  const std::vector<Artifact>& artifacts = manifest.stages.front().artifacts;
  ASSERT_EQ(artifacts.size(), 5U);
  EXPECT_EQ(artifacts[2].target, "sm75");
  EXPECT_TRUE(artifacts[2].version_compatible);
  EXPECT_FALSE(artifacts[3].version_compatible);
  EXPECT_EQ(artifacts[2].hardware_compatibility, "ampere_plus");
  EXPECT_EQ(artifacts[3].hardware_compatibility, "none");
}

TEST(Schema, KnowsAllKeywordsOfTheManifest) { Schema{parse_json(kManifestSchema)}; }

TEST(Schema, RejectsUnknownKeywords) {
  EXPECT_THROW(Schema{parse_json(R"({"minProperties": 3})")}, Failure);
}

}  // namespace
}  // namespace elir::core
