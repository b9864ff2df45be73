#include "support.hpp"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <elir/elir.hpp>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>

#include "golden.hpp"
#include "sha256.hpp"

namespace elir::test {
namespace {

namespace fs = std::filesystem;

std::string hash(const std::string& content) {
  core::Sha256 sha;
  sha.update(content.data(), content.size());
  return sha.finish();
}

const std::string kText = "no picture";

Golden file_entry(const std::string& file, const std::string& content) {
  return {{"file", file}, {"sha256", hash(content)}, {"bytes", content.size()}};
}

Golden bundle_manifest(const BundleOptions& options) {
  Golden made = golden("manifests.json")["bases"][options.split ? "split" : "fused"];
  made.erase("quantization");
  made.erase("detector");
  made["references"] = Golden::array();
  if (options.references) {
    made["verification"]["int8"] = made["verification"]["fp32"];
    made["references"].push_back({{"name", "text"},
                                  {"input", file_entry("in.png", kText)},
                                  {"output", file_entry("out.png", kText)}});
  }
  Golden& model = made["model"];
  model["faces"] = options.faces;
  model["upscale"] = options.upscale;
  model["upscale_kernel"] = options.kernel;
  made["shapes"] = {{{"batch", 1}, {"height", options.side}, {"width", options.side}}};
  for (const char* end : {"image", "restored"}) {
    Golden& image = made["tensors"][end];
    image["dtype"] = options.float_images ? "float32" : "uint8";
    image["layout"] = options.float_images ? "NCHW" : "NHWC";
    image["range"] = {0, options.float_images ? 1 : 255};
  }
  for (auto& [name, tensor] : made["tensors"].items()) {
    if (options.side % 8 != 0 && tensor["stride"] == 8) tensor["stride"] = 1;
  }
  return made;
}

// Fields of a message of Protocol Buffers.
std::string number(int field, std::size_t value) {
  std::string made(1, static_cast<char>(field << 3));
  for (; value >= 128; value /= 128) made += static_cast<char>(value % 128 + 128);
  return made + static_cast<char>(value);
}

std::string bytes(int field, const std::string& content) {
  std::string made = number(field, content.size());
  made[0] = static_cast<char>(made[0] + 2);
  return made + content;
}

// Of ONNX: an image of `side` by `side` pixels, of type uint8.
std::string image_info(const std::string& name, std::size_t side) {
  std::string shape;
  for (const std::size_t length : {std::size_t{1}, side, side, std::size_t{3}}) {
    shape += bytes(1, number(1, length));
  }
  return bytes(1, name) + bytes(2, bytes(1, number(1, 2) + bytes(2, shape)));
}

// "restored" is "image" and "image".
std::string adding_graph(std::size_t side) {
  const std::string node =
      bytes(1, "image") + bytes(1, "image") + bytes(2, "restored") + bytes(4, "Add");
  const std::string graph = bytes(1, node) + bytes(2, "g") + bytes(11, image_info("image", side)) +
                            bytes(12, image_info("restored", side));
  return number(1, 8) + bytes(7, graph) + bytes(8, bytes(1, "") + number(2, 14));
}

void write_bundle_of(const fs::path& folder, const BundleOptions& options,
                     const std::function<std::string(const std::string&)>& graph_of) {
  Golden manifest = bundle_manifest(options);
  fs::create_directories(folder);
  for (Golden& stage : manifest["stages"]) {
    for (Golden& artifact : stage["artifacts"]) {
      const auto file = artifact["file"].get<std::string>();
      const std::string content = graph_of(file);
      write_file(folder / file, content);
      artifact.update(file_entry(file, content));
    }
  }
  write_file(folder / "bundle.json", manifest.dump(1));
}

}  // namespace

const Golden& golden(const std::string& name) {
  static std::map<std::string, Golden> read;
  Golden& content = read[name];
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
  write_bundle_of(folder, options, [&](const std::string& file) {
    return options.graph.empty() ? "the graph of " + file : options.graph;
  });
  if (!options.references) return;
  for (const char* name : {"in.png", "out.png"}) write_file(folder / name, kText);
}

void write_adding_bundle(const fs::path& folder) {
  const BundleOptions options;
  write_bundle_of(folder, options, [&](const std::string&) {
    return adding_graph(static_cast<std::size_t>(options.side));
  });
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
    alarm(kSeconds);  // ends it with a signal
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
