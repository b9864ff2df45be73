// Fuzzes the manifest, a file or the path of a bundle through the C API: the result must be an
// error with a message of one line, or a working restorer.
//
// The first byte selects what the rest replaces in a valid bundle, and whether that has several
// shapes, batches and noise as an input; its manifest is then not replaced but changed by a JSON
// merge patch. The manifest has the size and hash of the replaced file.
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <elir/elir.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../tests/onnx_bytes.hpp"
#include "noise.hpp"
#include "sha256.hpp"

namespace {

namespace fs = std::filesystem;

// A temporary folder, in memory if possible.
class Folder {
 public:
  Folder() {
    const fs::path base = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    std::string name = (base / "elir-fuzz-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  void write(const std::string& file, const std::string& content) const {
    std::ofstream(path_ / file, std::ios::binary) << content;
  }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// A graph for the check before a library reads it.
std::string small_graph(bool several) {
  using namespace elir::test;  // NOLINT
  const std::string end = onnx_value(
      "a", kOnnxUint8,
      several ? std::vector<std::uint64_t>{0, 0, 0, 3} : std::vector<std::uint64_t>{1, 8, 8, 3});
  std::vector<std::string> inputs = {end};
  if (several) inputs.push_back(onnx_value("noise", kOnnxFloat, {0, 3, 0, 0}));
  return onnx_model(OnnxGraph{{onnx_node("Add", {"a", "a"}, "a")}, {}, inputs, end}.content());
}

struct Files {
  bool several;  // shapes, with batches and noise as an input
  std::string graph = small_graph(several);
  std::string picture = "a picture";
};

std::string hash(const std::string& content) {
  elir::core::Sha256 sha;
  sha.update(content.data(), content.size());
  return sha.finish();
}

nlohmann::json file(const std::string& name, const std::string& content) {
  return {{"file", name}, {"sha256", hash(content)}, {"bytes", content.size()}};
}

nlohmann::json artifact(const std::string& precision, const std::string& graph) {
  nlohmann::json entry = file("fused." + precision + ".onnx", graph);
  entry.update({{"kind", "onnx"},
                {"precision", precision},
                {"target", nullptr},
                {"tool", ""},
                {"tool_version", ""}});
  return entry;
}

// A small manifest with pictures, which the accuracy check of INT8 reads.
nlohmann::json manifest_of(const Files& files) {
  static const nlohmann::json bare = nlohmann::json::parse(R"({
    "format": "elir-bundle", "format_version": 2,
    "model": {"task": "tiny", "steps": 1, "sigma_s": 0, "upscale": 1, "upscale_kernel": "none",
              "faces": false, "parameters": 1, "architecture": {}},
    "source": {"name": "", "sha256": null, "random": true},
    "shapes": [{"batch": 1, "height": 8, "width": 8}],
    "tensors": {"a": {"dtype": "uint8", "layout": "NHWC", "channels": 3, "stride": 1,
                      "range": [0, 255]}},
    "stages": [{"name": "fused", "inputs": ["a"], "output": "a", "artifacts": []}],
    "resize": {"kernel": "bicubic", "a": -0.5, "antialias": true, "rounding": ""},
    "precisions": ["fp32", "int8"],
    "export": {"opset": 17, "float16_normalization": "measured", "int8_fallback": "float32",
               "rewrites": {}},
    "verification": {"int8": {"psnr_db": 40, "max_error": 0, "mean_error": 0, "floor_db": 35,
                              "passed": true, "automatic": true, "backend": "", "images": [],
                              "boundaries": {}, "parts": {}, "worst_part": null,
                              "kept_float32": []}},
    "references": [{"name": "r"}],
    "versions": {}})");
  nlohmann::json manifest = bare;
  manifest["noise"] = {{"kind", "baked"}, {"generator", ""}, {"seed", 0}, {"sha256", hash("")}};
  manifest["stages"][0]["artifacts"] = {artifact("fp32", files.graph),
                                        artifact("int8", files.graph)};
  manifest["references"][0]["input"] = file("in.png", files.picture);
  manifest["references"][0]["output"] = file("out.png", files.picture);
  if (!files.several) return manifest;
  manifest.merge_patch(nlohmann::json::parse(R"({
    "noise": {"kind": "field", "sha256": null},
    "shapes": [{"batch": 3, "height": 8, "width": 8},
               {"batch": 2, "height": 7, "width": 15, "padded_height": 8, "padded_width": 16}],
    "tensors": {"noise": {"dtype": "float32", "layout": "NCHW", "channels": 3, "stride": 4}}})"));
  manifest["noise"]["generator"] = elir::core::kFieldGenerator;
  manifest["stages"][0]["inputs"] = {"a", "noise"};
  return manifest;
}

void check_line(const char* line) {
  const std::string message = line;
  if (message.empty()) std::abort();
  static_cast<void>(nlohmann::json(message).dump());  // throws unless it is UTF-8
  for (const char byte : message) {
    if (static_cast<unsigned char>(byte) < 0x20) std::abort();
  }
}

void log(void* /*user*/, elir_log_level /*level*/, const char* message) { check_line(message); }

void restore(elir_restorer* restorer) {
  elir_description description;
  description.struct_size = sizeof description;
  if (elir_describe(restorer, &description) != ELIR_OK) std::abort();
  for (std::int32_t i = 0; i < description.shape_count; ++i) {  // valid, but large
    const elir_shape& shape = description.shapes[i];
    if (std::int64_t{shape.batch} * shape.width * shape.height > 20000) return;
  }
  const std::int32_t upscale = description.upscale;
  std::vector<std::uint8_t> pixels(3 * 21 * 17);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(upscale * upscale));
  const elir_image input = elir::image(pixels.data(), 21, 17);
  const elir_image output = elir::image(result.data(), 21 * upscale, 17 * upscale, 0, ELIR_BGR8);
  const elir_status status = elir_restore(restorer, &input, &output);
  if (status != ELIR_OK && status != ELIR_ERROR_USAGE) std::abort();  // a face model in tiles
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string path = folder.path();
  Files files{(data[0] & 8U) != 0};
  std::string manifest;
  nlohmann::json patch;
  switch (data[0] % 4) {
    case 0:
      if (files.several) {
        patch = nlohmann::json::parse(rest, nullptr, false);
      } else {
        manifest = rest;
      }
      break;
    case 1:
      files.graph = rest;
      break;
    case 2:
      files.picture = rest;
      break;
    default:
      path = rest;
  }
  if (manifest.empty()) {
    nlohmann::json values = manifest_of(files);
    if (patch.is_object()) values.merge_patch(patch);
    manifest = values.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  folder.write("bundle.json", manifest);
  for (const char* name : {"fused.fp32.onnx", "fused.int8.onnx"}) folder.write(name, files.graph);
  for (const char* name : {"in.png", "out.png"}) folder.write(name, files.picture);
  elir_params params = elir_default_params();
  params.log = log;
  params.tile_overlap = data[0] / 32 - 1;
  if ((data[0] & 4U) == 0) params.backend = "reference";
  if (data[0] % 4 == 2) params.precision = "int8";
  elir_restorer* restorer = nullptr;
  const elir_status status = elir_create(path.c_str(), &params, &restorer);
  if (status == ELIR_OK) {
    restore(restorer);
  } else {
    check_line(elir_last_error());
    if (restorer != nullptr || status == ELIR_ERROR_INTERNAL) std::abort();
  }
  elir_destroy(restorer);
  return 0;
}
