// Pictures and bundles for tests.
#pragma once

#include <elir/elir.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace elir::test {

// A picture by the formula of tests/golden/make.py, rows without padding.
std::vector<std::uint8_t> pattern(std::size_t width, std::size_t height, std::uint64_t seed);

// Computes what the reference backend does to a square without noise.
void reference_model(const std::uint8_t* source, std::uint8_t* result, std::size_t side);

// A dark picture with white blocks of 4 x 4 pixels: faces for the reference detector.
std::vector<std::uint8_t> spots(int width, int height, const std::vector<std::pair<int, int>>& at);

// A face detector's file. Any graph will do: the reference backend has a detector of its own.
std::string detector_graph();

// SHA-256.
std::string digest(const std::vector<std::uint8_t>& bytes);

// A temporary folder, removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string string() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

struct BundleOptions {
  int side = 32;
  bool split = false;
  bool float_images = false;
  bool faces = false;
  int upscale = 1;
  std::string kernel = "none";
  bool references = false;    // invalid pictures, and an int8 that passed verification
  std::string graph = "";     // an ONNX file; empty: one that adds the input to itself
  std::string detector = "";  // an ONNX file of a face detector; empty: none
  std::string shapes = "";    // of the manifest, in JSON; empty: one of `side`
  int noise_stride = 0;       // of the input that is noise; 0: there is none
};

// Writes a bundle for the reference backend and, if it is not split, for all others.
void write_bundle(const std::filesystem::path& folder, const BundleOptions& options = {});

void write_file(const std::filesystem::path& path, const std::string& content);

// Parameters with the reference backend.
elir_params reference_params();

// Runs `work` in a child process. Returns its result, 0 to 99; more if the child crashes or hangs.
int in_child(const std::function<int()>& work);

elir_image image_of(std::vector<std::uint8_t>& pixels, int width, int height);

}  // namespace elir::test
