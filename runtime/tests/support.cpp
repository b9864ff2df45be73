#include "support.hpp"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <elir/elir.hpp>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>

#include "golden.hpp"
#include "onnx_bytes.hpp"
#include "sha256.hpp"

namespace elir::test {
namespace {

namespace fs = std::filesystem;

std::string hash(const std::string& content) {
  core::Sha256 sha;
  sha.update(content.data(), content.size());
  return sha.finish();
}

const std::string kText = "not a picture";
const std::string kDetectorFile = "detector/centerface.onnx";
const std::string kLicenceFile = "detector/LICENSE";

Golden file_entry(const std::string& file, const std::string& content) {
  return {{"file", file}, {"sha256", hash(content)}, {"bytes", content.size()}};
}

Golden bundle_manifest(const BundleOptions& options) {
  const char* base = options.split ? "split" : options.noise_stride > 0 ? "field" : "fused";
  Golden manifest = golden("manifests.json")["bases"][base];
  manifest.erase("quantization");
  if (options.detector.empty()) {
    manifest.erase("detector");
  } else {
    manifest["detector"]["outputs"] = {
        {"537", "heat_4"}, {"538", "log_size_4"}, {"539", "offset_4"}, {"540", "landmarks_4"}};
    for (const char* name : {"template", "template_size"}) {
      manifest["detector"][name] = golden("photos.json")[name];
    }
    manifest["detector"]["licence_file"] = file_entry(kLicenceFile, kText);
    manifest["detector"]["artifacts"][0].update(file_entry(kDetectorFile, options.detector));
  }
  manifest["references"] = Golden::array();
  if (options.references) {
    manifest["verification"]["int8"] = manifest["verification"]["fp32"];
    manifest["references"].push_back({{"name", "text"},
                                      {"input", file_entry("in.png", kText)},
                                      {"output", file_entry("out.png", kText)}});
  }
  Golden& model = manifest["model"];
  model["faces"] = options.faces;
  model["upscale"] = options.upscale;
  model["upscale_kernel"] = options.kernel;
  manifest["shapes"] = {{{"batch", 1}, {"height", options.side}, {"width", options.side}}};
  if (!options.shapes.empty()) manifest["shapes"] = Golden::parse(options.shapes);
  if (options.noise_stride > 0) manifest["tensors"]["noise"]["stride"] = options.noise_stride;
  for (const char* end : {"image", "restored"}) {
    Golden& image = manifest["tensors"][end];
    image["dtype"] = options.float_images ? "float32" : "uint8";
    image["layout"] = options.float_images ? "NCHW" : "NHWC";
    image["range"] = {0, options.float_images ? 1 : 255};
  }
  for (auto& [name, tensor] : manifest["tensors"].items()) {
    if (options.side % 8 != 0 && tensor["stride"] == 8) tensor["stride"] = 1;
  }
  return manifest;
}

// A ValueInfoProto of a tensor; what the shapes leave open is 0.
std::string value_of(const Golden& manifest, const std::string& name) {
  const Golden& tensor = manifest["tensors"][name];
  const Golden& shapes = manifest["shapes"];
  const std::uint64_t stride = tensor["stride"];
  const std::uint64_t channels = tensor["channels"];
  const auto side = [&](const char* key, const char* padded) {
    const Golden& shape = shapes[0];
    return shapes.size() > 1 ? 0 : shape.value(padded, shape[key].get<std::uint64_t>()) / stride;
  };
  const std::uint64_t height = side("height", "padded_height");
  const std::uint64_t width = side("width", "padded_width");
  const bool batches = std::any_of(shapes.begin(), shapes.end(),
                                   [](const Golden& shape) { return shape["batch"] > 1; });
  const std::uint64_t batch = batches ? 0 : 1;
  return onnx_value(name, tensor["dtype"] == "uint8" ? kOnnxUint8 : kOnnxFloat,
                    tensor["layout"] == "NHWC" ? std::vector{batch, height, width, channels}
                                               : std::vector{batch, channels, height, width});
}

// A graph that adds its input to itself.
std::string adding_graph(const Golden& manifest, const Golden& stage) {
  const std::string input = stage["inputs"][0];
  const std::string output = stage["output"];
  std::vector<std::string> inputs;
  for (const Golden& name : stage["inputs"]) inputs.push_back(value_of(manifest, name));
  return onnx_model(
      OnnxGraph{{onnx_node("Add", {input, input}, output)}, {}, inputs, value_of(manifest, output)}
          .content());
}

}  // namespace

const Golden& golden(const std::string& name) {
  static std::map<std::string, Golden> files;
  Golden& content = files[name];
  if (content.is_null()) content = Golden::parse(std::ifstream(fs::path(ELIR_GOLDEN) / name));
  return content;
}

std::vector<std::uint8_t> pattern(std::size_t width, std::size_t height, std::uint64_t seed) {
  std::vector<std::uint8_t> pixels;
  pixels.reserve(3 * width * height);
  for (std::uint64_t y = 0; y < height; ++y) {
    for (std::uint64_t x = 0; x < width; ++x) {
      for (std::uint64_t c = 0; c < 3; ++c) {
        const std::uint64_t value =
            y * 2654435761U + x * 40503U + c * 97U + seed * 7919U + x * y * 31U;
        pixels.push_back(static_cast<std::uint8_t>(((value ^ (value >> 7U)) * 0x9E3779B1U) >> 16U));
      }
    }
  }
  return pixels;
}

void reference_model(const std::uint8_t* source, std::uint8_t* result, std::size_t side) {
  for (std::size_t y = 0; y < side; ++y) {
    for (std::size_t x = 0; x < side; ++x) {
      for (std::size_t c = 0; c < 3; ++c) {
        const std::size_t at = (y * side + x) * 3 + c;
        result[at] = static_cast<std::uint8_t>(source[at] + 7 * y + 13 * x + 31 * c);
      }
    }
  }
}

std::vector<std::uint8_t> spots(int width, int height, const std::vector<std::pair<int, int>>& at) {
  std::vector<std::uint8_t> pixels =
      pattern(static_cast<std::size_t>(width), static_cast<std::size_t>(height), 1);
  for (std::uint8_t& value : pixels) value = static_cast<std::uint8_t>(value / 3);
  for (const auto& [left, top] : at) {
    for (int i = 0; i < 48; ++i) {
      const int pixel = (top + i / 12) * width + left + i % 12 / 3;
      pixels[static_cast<std::size_t>(3 * pixel + i % 3)] = 255;
    }
  }
  return pixels;
}

std::string detector_graph() {
  const std::string end = onnx_value("input.1", kOnnxFloat, {1, 3, 0, 0});
  return onnx_model(OnnxGraph{{onnx_node("Relu", {"input.1"}, "537")},
                              {},
                              {end},
                              onnx_value("537", kOnnxFloat, {1, 3, 0, 0})}
                        .content());
}

std::string digest(const std::vector<std::uint8_t>& bytes) {
  core::Sha256 sha;
  sha.update(bytes.data(), bytes.size());
  return sha.finish();
}

Folder::Folder() {
  std::string name = (fs::temp_directory_path() / "elir-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_bundle(const fs::path& folder, const BundleOptions& options) {
  Golden manifest = bundle_manifest(options);
  fs::create_directories(folder);
  for (Golden& stage : manifest["stages"]) {
    const std::string content =
        options.graph.empty() ? adding_graph(manifest, stage) : options.graph;
    for (Golden& artifact : stage["artifacts"]) {
      const auto file = artifact["file"].get<std::string>();
      write_file(folder / file, content);
      artifact.update(file_entry(file, content));
    }
  }
  write_file(folder / "bundle.json", manifest.dump(1));
  if (!options.detector.empty()) {
    fs::create_directory(folder / "detector");
    write_file(folder / kDetectorFile, options.detector);
    write_file(folder / kLicenceFile, kText);
  }
  if (!options.references) return;
  for (const char* name : {"in.png", "out.png"}) write_file(folder / name, kText);
}

void write_file(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

elir_params reference_params() {
  elir_params params = elir_default_params();
  params.backend = "reference";
  return params;
}

int in_child(const std::function<int()>& work) {
  constexpr unsigned kSeconds = 20;
  const pid_t child = fork();
  if (child == 0) {
    alarm(kSeconds);
    _exit(work());
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 100;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

elir_image image_of(std::vector<std::uint8_t>& pixels, int width, int height) {
  return image(pixels.data(), width, height);
}

}  // namespace elir::test
