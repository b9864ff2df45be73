// Errors for damaged bundles.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <fstream>

#include "bundle.hpp"
#include "error.hpp"
#include "onnx_bytes.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override { test::write_bundle(path()); }
  fs::path path() const { return folder_.path() / "b"; }

  // The error of opening a bundle and checking all files, with "B" for the folder.
  std::string error_of() const { return error_of(path()); }
  static std::string error_of(const fs::path& at) {
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

TEST_F(BundleTest, ValidBundle) { EXPECT_EQ(error_of(), ""); }

TEST_F(BundleTest, NotABundle) {
  for (const fs::path& at : {folder_.path() / "none", path() / "fused.fp32.onnx", folder_.path()}) {
    EXPECT_EQ(error_of(at).find("B is not the folder of a bundle: "), 0U) << at;
  }
  fs::create_directories(folder_.path() / "c" / "bundle.json");
  EXPECT_EQ(error_of(folder_.path() / "c"), "B/bundle.json is not a regular file");
}

TEST_F(BundleTest, ManifestTooLarge) {
  test::write_file(path() / "bundle.json", std::string((16U << 20U) + 1, ' '));
  EXPECT_EQ(error_of(), "B/bundle.json has more than 16777216 bytes");
}

TEST_F(BundleTest, MissingFile) {
  fs::remove(path() / "fused.fp32.onnx");
  EXPECT_EQ(error_of(), "B/fused.fp32.onnx is missing: the bundle is incomplete, copy it again");
}

TEST_F(BundleTest, TruncatedFile) {
  const std::string size = std::to_string(fs::file_size(path() / "fused.fp32.onnx"));
  fs::resize_file(path() / "fused.fp32.onnx", 5);
  EXPECT_EQ(error_of(), "B/fused.fp32.onnx has 5 bytes, expected " + size +
                            ": the file is truncated or replaced, copy the bundle again");
}

TEST_F(BundleTest, FlippedBit) {
  std::fstream file(path() / "fused.fp32.onnx", std::ios::in | std::ios::out | std::ios::binary);
  file.put('T');
  file.close();
  EXPECT_EQ(error_of().substr(0, 44), "B/fused.fp32.onnx is damaged: its SHA-256 is");
}

TEST_F(BundleTest, Links) {
  fs::rename(path() / "fused.fp32.onnx", folder_.path() / "elsewhere");
  fs::create_symlink(folder_.path() / "elsewhere", path() / "fused.fp32.onnx");
  EXPECT_EQ(
      error_of(),
      "B/fused.fp32.onnx is a link to a file outside the bundle: copy the bundle with its files");
  fs::remove(path() / "fused.fp32.onnx");
  fs::create_symlink("fused.fp32.onnx", path() / "fused.fp32.onnx");
  EXPECT_EQ(error_of(), "B/fused.fp32.onnx cannot be read: Too many levels of symbolic links");
}

// A detector's inputs and outputs are not in the manifest, and so not compared.
TEST_F(BundleTest, DetectorGraphs) {
  using namespace test;  // NOLINT
  const auto detector = [](const std::string& op) {
    const std::string end = onnx_value("other", kOnnxFloat, {1, 3, 640, 640});
    return onnx_model(OnnxGraph{{onnx_node(op, {"other"}, "other")}, {}, {end}, end}.content());
  };
  BundleOptions options;
  options.detector = detector("Relu");
  write_bundle(path(), options);
  EXPECT_EQ(error_of(), "");
  options.detector = detector("Loop");
  write_bundle(path(), options);
  EXPECT_EQ(error_of().find("B/detector/centerface.onnx: it contains the operator Loop"), 0U)
      << error_of();
}

TEST_F(BundleTest, FolderInsteadOfFile) {
  fs::remove(path() / "fused.fp32.onnx");
  fs::create_directory(path() / "fused.fp32.onnx");
  EXPECT_EQ(error_of(), "B/fused.fp32.onnx is not a regular file");
}

TEST_F(BundleTest, ManifestIsNotAFile) {
  fs::remove(path() / "bundle.json");
  ASSERT_EQ(mkfifo((path() / "bundle.json").c_str(), 0600), 0);
  EXPECT_EQ(error_of(), "B/bundle.json is not a regular file") << "without waiting";
  fs::remove(path() / "bundle.json");
  fs::create_symlink("bundle.json", path() / "bundle.json");
  EXPECT_EQ(error_of(), "B/bundle.json cannot be read: Too many levels of symbolic links");
}

TEST_F(BundleTest, OpenedThroughALink) {
  fs::create_directory_symlink(path(), folder_.path() / "link");
  EXPECT_EQ(error_of(folder_.path() / "link"), "");
}

}  // namespace
}  // namespace elir::core
