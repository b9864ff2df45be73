// The manifest of a bundle, bundle.json, checked and with types. See docs/bundle-format.md.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace elir::core {

inline constexpr std::string_view kManifestName = "bundle.json";
inline constexpr std::string_view kFormatName = "elir-bundle";
inline constexpr std::int64_t kFormatVersion = 2;
// A manifest is some tens of kilobytes; more than this is not one.
inline constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20U;
// A tensor between stages larger than this is a damaged manifest.
inline constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 30U;

enum class Dtype { uint8, float32 };
enum class Layout { nhwc, nchw };

inline const char* type_name(Dtype dtype) { return dtype == Dtype::uint8 ? "uint8" : "float32"; }

// An input or output of a graph, as a file or a library tells of it.
struct End {
  std::string name;
  std::string dtype;                // such as "uint8"
  std::vector<std::int64_t> sides;  // below 0 where left open

  std::string describe() const;  // such as "image: uint8 1x64x64x3"
};

// Throws a bundle error where a graph's inputs or outputs, which `whose` tells, are others.
void check_ends(const std::string& whose, const std::vector<End>& seen,
                const std::vector<End>& expected);

// A tensor handed to or taken from a stage, in one shape.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::uint8;
  std::array<std::int64_t, 4> shape = {};  // in the order of `layout`; the first is the batch
  Layout layout = Layout::nhwc;

  std::int64_t width() const { return shape[layout == Layout::nhwc ? 2 : 3]; }
  std::size_t bytes() const;
  End end() const { return {name, type_name(dtype), {shape.begin(), shape.end()}}; }
};

// A file of the bundle: its path inside, with '/'.
struct File {
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
};

// One stage made into one file.
struct Artifact : File {
  std::string kind;
  std::string precision;
  std::optional<std::string> target;  // devices it was made for; none: any
  std::string tool_version;
  bool version_compatible = false;     // an engine for later releases of its library too
  std::string hardware_compatibility;  // "none", or which other GPUs an engine runs on
};

// The tensors are as they are in the first shape.
struct Stage {
  std::string name;
  TensorSpec input;
  TensorSpec output;
  std::vector<Artifact> artifacts;
};

// Agreement of a precision with float32 PyTorch.
struct Verification {
  std::optional<double> psnr_db;  // of the worst photograph; none where all are identical
  double floor_db = 0;
  bool passed = false;
  bool automatic = false;  // may run where nobody names a precision
  bool finite = true;      // the network gave only finite numbers
};

// A network input and what float32 PyTorch makes of it: two PNG files.
struct Reference {
  std::string name;
  std::string input;
  std::string output;
};

// Images that the graphs take at once, in pixels, and what they are padded to.
struct Shape {
  std::int64_t batch = 1;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t padded_height = 0;
  std::int64_t padded_width = 0;
};

enum class Kernel { none, nearest, bicubic };

struct Manifest {
  std::string task;
  int upscale = 1;
  Kernel upscale_kernel = Kernel::none;
  bool faces = false;
  bool random = false;
  bool field_noise = false;  // noise is an input of the graph, and no constant in it
  bool detector = false;     // of faces
  std::vector<Shape> shapes;
  std::vector<Stage> stages;
  std::vector<std::string> precisions;
  std::map<std::string, Verification, std::less<>> verification;  // by precision
  std::vector<Reference> references;
  std::vector<File> files;  // all but the manifest

  const TensorSpec& input() const { return stages.front().input; }
  const TensorSpec& output() const { return stages.back().output; }
  // Side of the square that the first shape has.
  std::size_t side() const { return static_cast<std::size_t>(shapes.front().height); }

  const Verification* verified(std::string_view precision) const;  // null if it was not
};

// Throws a bundle error: no strict JSON, not a manifest, of a newer format, against the schema, or
// inconsistent in itself. Which manifests are refused is decided as in elir_deploy.runtime.
Manifest read_manifest(std::string_view data);

// Throws a bundle error where this library cannot run such bundles yet.
void check_served(const Manifest& manifest);

}  // namespace elir::core
