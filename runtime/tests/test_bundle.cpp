// Folders that are no bundles, and what the library says of them.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <fstream>

#include "bundle.hpp"
#include "error.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override { test::write_bundle(path()); }
  fs::path path() const { return folder_.path() / "b"; }

  // What opening and using all files gives, with the folder's name as "B".
  std::string said() const { return said(path()); }
  static std::string said(const fs::path& at) {
    std::string message;
    try {
      const Bundle bundle(at.string());
      for (const File& each : bundle.manifest().files) bundle.checked_file(each.file);
      return "";
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
      message = failure.what();
    }
    for (std::size_t place; (place = message.find(at.string())) != std::string::npos;) {
      message.replace(place, at.string().size(), "B");
    }
    return message;
  }

  test::Folder folder_;
};

TEST_F(BundleTest, AGoodOneOpens) { EXPECT_EQ(said(), ""); }

TEST_F(BundleTest, WhatIsNoBundle) {
  for (const fs::path& at : {folder_.path() / "none", path() / "fused.fp32.onnx", folder_.path()}) {
    EXPECT_EQ(said(at).find("B is not the folder of a bundle: "), 0U) << at;
  }
  fs::create_directories(folder_.path() / "c" / "bundle.json");
  EXPECT_EQ(said(folder_.path() / "c"), "B/bundle.json is not a regular file");
}

TEST_F(BundleTest, ManifestTooLarge) {
  test::write_file(path() / "bundle.json", std::string((16U << 20U) + 1, ' '));
  EXPECT_EQ(said(), "B/bundle.json has more than 16777216 bytes");
}

TEST_F(BundleTest, MissingFile) {
  fs::remove(path() / "fused.fp32.onnx");
  EXPECT_EQ(said(), "B/fused.fp32.onnx is missing: the bundle is incomplete, copy it again");
}

TEST_F(BundleTest, TruncatedFile) {
  const std::string size = std::to_string(fs::file_size(path() / "fused.fp32.onnx"));
  fs::resize_file(path() / "fused.fp32.onnx", 5);
  EXPECT_EQ(said(), "B/fused.fp32.onnx: 5 bytes, the manifest says " + size +
                        ": the file is cut off or replaced, copy the bundle again");
}

TEST_F(BundleTest, FlippedBit) {
  std::fstream file(path() / "fused.fp32.onnx", std::ios::in | std::ios::out | std::ios::binary);
  file.put('T');
  file.close();
  EXPECT_EQ(said().substr(0, 44), "B/fused.fp32.onnx is damaged: its SHA-256 is");
}

TEST_F(BundleTest, Links) {
  fs::rename(path() / "fused.fp32.onnx", folder_.path() / "elsewhere");
  fs::create_symlink(folder_.path() / "elsewhere", path() / "fused.fp32.onnx");
  EXPECT_EQ(said(), "B/fused.fp32.onnx is a link out of the bundle: a bundle holds its own files");
  fs::remove(path() / "fused.fp32.onnx");
  fs::create_symlink("fused.fp32.onnx", path() / "fused.fp32.onnx");
  EXPECT_EQ(said(), "B/fused.fp32.onnx cannot be read: Too many levels of symbolic links");
}

TEST_F(BundleTest, AFolderInPlaceOfAFile) {
  fs::remove(path() / "fused.fp32.onnx");
  fs::create_directory(path() / "fused.fp32.onnx");
  EXPECT_EQ(said(), "B/fused.fp32.onnx is not a regular file");
}

TEST_F(BundleTest, AManifestThatIsNoFile) {
  fs::remove(path() / "bundle.json");
  ASSERT_EQ(mkfifo((path() / "bundle.json").c_str(), 0600), 0);
  EXPECT_EQ(said(), "B/bundle.json is not a regular file") << "and nobody waits";
  fs::remove(path() / "bundle.json");
  fs::create_symlink("bundle.json", path() / "bundle.json");
  EXPECT_EQ(said(), "B/bundle.json cannot be read: Too many levels of symbolic links");
}

TEST_F(BundleTest, ReachedThroughALink) {
  fs::create_directory_symlink(path(), folder_.path() / "link");
  EXPECT_EQ(said(folder_.path() / "link"), "");
}

}  // namespace
}  // namespace elir::core
