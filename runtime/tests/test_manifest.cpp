// Hostile manifests, and the messages the Python runtime has for them: tests/golden/make.py.
#include <gtest/gtest.h>

#include <optional>

#include "embedded.hpp"
#include "error.hpp"
#include "golden.hpp"
#include "json.hpp"
#include "manifest.hpp"
#include "schema.hpp"

namespace elir::core {
namespace {

using test::Golden;

std::optional<std::string> message_of(const std::string& json) {
  try {
    read_manifest(json);
    return std::nullopt;
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
    return failure.what();
  }
}

Golden& reached(Golden& value, const Golden& path, std::size_t steps) {
  Golden* place = &value;
  for (std::size_t i = 0; i < steps; ++i) {
    place = path[i].is_string() ? &(*place)[path[i].get<std::string>()]
                                : &(*place)[path[i].get<std::size_t>()];
  }
  return *place;
}

// As text: a value that is put in stays as the golden file writes it.
std::string changed(Golden manifest, const Golden& golden) {
  if (golden.contains("set")) {
    const Golden& path = golden["set"];
    reached(manifest, path, path.size()) = "@";
    std::string text = manifest.dump();
    return text.replace(text.find("\"@\""), 3, golden["text"].get<std::string>());
  }
  const Golden& path = golden["delete"];
  Golden& holder = reached(manifest, path, path.size() - 1);
  if (path.back().is_string()) {
    holder.erase(path.back().get<std::string>());
  } else {
    holder.erase(path.back().get<std::size_t>());
  }
  return manifest.dump();
}

TEST(Manifest, SaysWhatPythonSays) {
  const Golden& all = test::golden("manifests.json");
  ASSERT_GT(all["cases"].size(), 1200U);
  for (const Golden& golden : all["cases"]) {
    const std::string manifest = changed(all["bases"][golden["base"].get<std::string>()], golden);
    const std::optional<std::string> seen = message_of(manifest);
    const Golden& wanted = golden["message"];
    if (wanted.is_null()) {
      EXPECT_EQ(seen, std::nullopt) << golden;
    } else {
      EXPECT_EQ(seen, wanted.get<std::string>()) << golden;
    }
  }
}

TEST(Manifest, DamagedText) {
  for (const Golden& golden : test::golden("manifests.json")["damaged"]) {
    const std::string hex = golden["hex"];
    std::string data;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      data += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    const std::string wanted = golden["message"];
    std::string seen = message_of(data).value_or("no error");
    if (!golden["whole"]) seen = seen.substr(0, wanted.size());
    EXPECT_EQ(seen, wanted) << data;
  }
}

TEST(Manifest, DeepAndLongText) {
  const std::string begin = R"({"format": "elir-bundle", "a": )";
  EXPECT_EQ(message_of(begin + std::string(2000000, '[')), "damaged: nested too deeply");
  EXPECT_EQ(message_of(begin + std::string(10000, '9') + "}")->substr(0, 9), "damaged: ");
  EXPECT_NE(message_of(begin + '"' + std::string(2000000, 'a') + "\"}"), std::nullopt);
}

TEST(Manifest, LongStringsMeetNoPatternAndNoStackOverflow) {
  Golden manifest = test::golden("manifests.json")["bases"]["fused"];
  manifest["stages"][0]["artifacts"][0]["sha256"] = std::string(5000000, '0');
  EXPECT_NE(message_of(manifest.dump())->find("must match pattern"), std::string::npos);
}

TEST(Manifest, TypedValues) {
  const Manifest seen = read_manifest(test::golden("manifests.json")["bases"]["split"].dump());
  EXPECT_EQ(seen.task, "tiny");
  EXPECT_EQ(seen.image_size, 32);
  ASSERT_EQ(seen.stages.size(), 4U);
  EXPECT_EQ(seen.stages[1].input.describe(), "z0: float32 1x16x4x4 NCHW");
  EXPECT_EQ(seen.stages[1].input.bytes(), 1024U);
  EXPECT_EQ(seen.verified("bf16")->psnr_db, 70.5);
  EXPECT_EQ(seen.verified("int8"), nullptr);
  EXPECT_EQ(seen.file_hashes.size(), 11U);
}

TEST(Manifest, Engines) {
  const Manifest seen = read_manifest(test::golden("manifests.json")["bases"]["engines"].dump());
  const std::vector<Artifact>& artifacts = seen.stages.front().artifacts;
  ASSERT_EQ(artifacts.size(), 5U);
  EXPECT_EQ(artifacts[2].target, "sm75");
  EXPECT_TRUE(artifacts[2].version_compatible);
  EXPECT_FALSE(artifacts[3].version_compatible);
  EXPECT_EQ(artifacts[2].hardware_compatibility, "ampere_plus");
  EXPECT_EQ(artifacts[3].hardware_compatibility, "none");
}

TEST(Schema, KnowsEveryKeywordOfTheManifests) { Schema{parse_json(kManifestSchema)}; }

TEST(Schema, RefusesAKeywordItDoesNotKnow) {
  EXPECT_THROW(Schema{parse_json(R"({"minLength": 3})")}, Failure);
}

}  // namespace
}  // namespace elir::core
