// A folder with any bytes as its manifest and any as its files, through the C API: a status and a
// message, or a restorer that restores.
//
// The first byte says which file the rest replaces in a good bundle.
#include <elir/elir.h>
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "sha256.hpp"

namespace {

namespace fs = std::filesystem;

// In memory where there is a place for that; one folder for the process.
class Place {
 public:
  Place() {
    const fs::path base = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    std::string name = (base / "elir-fuzz-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~Place() {
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

constexpr const char* kGraph = "fused.fp32.onnx";
const std::string kContent = "a graph";

// The smallest manifest there is.
std::string good_manifest() {
  elir::core::Sha256 sha;
  sha.update(kContent.data(), kContent.size());
  const std::string none(64, '0');
  const std::string in = R"({"name":"a","dtype":"uint8","shape":[1,8,8,3],"layout":"NHWC")";
  const std::string out = R"({"name":"b","dtype":"uint8","shape":[1,8,8,3],"layout":"NHWC")";
  const std::string image = R"(,"range":[0,255],"color":"RGB"})";
  return R"({"format":"elir-bundle","format_version":1,"model":{"task":"tiny","image_size":8,)"
         R"("steps":1,"sigma_s":0,"upscale":1,"upscale_kernel":"none","faces":false,)"
         R"("parameters":1,"architecture":{},"noise":{"seed":0,"generator":"","sha256":")" +
         none +
         R"("}},"source":{"name":"","sha256":null,"random":true},)"
         R"("resize":{"kernel":"bicubic","a":-0.5,"antialias":true,"rounding":""},)"
         R"("precisions":["fp32"],"verification":{},"references":[],"versions":{},"input":)" +
         in + image + R"(,"output":)" + out + image + R"(,"stages":[{"name":"fused","input":)" +
         in + R"(},"output":)" + out +
         R"(},"artifacts":[{"file":"fused.fp32.onnx","kind":"onnx",)" +
         R"("precision":"fp32","target":null,"tool":"","tool_version":"","bytes":7,"sha256":")" +
         sha.finish() + R"("}]}]})";
}

void restore(elir_restorer* restorer) {
  elir_description description;
  description.struct_size = sizeof description;
  if (elir_describe(restorer, &description) != ELIR_OK) std::abort();
  if (description.image_size > 64) return;  // good, but large
  const std::int32_t upscale = description.upscale;
  std::vector<std::uint8_t> pixels(3 * 9 * 7);
  std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(upscale * upscale));
  const elir_image input{pixels.data(), 9, 7, 0, ELIR_RGB8};
  const elir_image output{result.data(), 9 * upscale, 7 * upscale, 0, ELIR_BGR8};
  const elir_status status = elir_restore(restorer, &input, &output);
  if (status != ELIR_OK && status != ELIR_ERROR_USAGE) std::abort();  // a face model in tiles
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  static const std::string manifest = good_manifest();
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  place.write("bundle.json", data[0] % 2 == 0 ? rest : manifest);
  place.write(kGraph, data[0] % 2 == 0 ? kContent : rest);
  elir_params params = elir_default_params();
  if ((data[0] & 2U) == 0) params.backend = "reference";
  elir_restorer* restorer = nullptr;
  const elir_status status = elir_create(place.path().c_str(), &params, &restorer);
  if (status == ELIR_OK) {
    restore(restorer);
  } else if (restorer != nullptr || status == ELIR_ERROR_INTERNAL ||
             std::strlen(elir_last_error()) == 0) {
    std::abort();
  }
  elir_destroy(restorer);
  return 0;
}
