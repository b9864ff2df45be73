// A bundle's manifest, bundle.json, validated and typed. See docs/bundle-format.md.
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
// A manifest has some tens of kilobytes; a larger file than this is rejected.
inline constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20U;
// A manifest with a larger tensor between stages is rejected.
inline constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 30U;

enum class Dtype { uint8, float32 };
enum class Layout { nhwc, nchw };

inline const char* type_name(Dtype dtype) { return dtype == Dtype::uint8 ? "uint8" : "float32"; }

// An input or output of a graph, as a file or a library reports it.
struct End {
  std::string name;
  std::string dtype;                // such as "uint8"
  std::vector<std::int64_t> sides;  // negative: unspecified

  std::string describe() const;  // such as "image: uint8 1x64x64x3"
};

struct GraphEnds {
  std::vector<End> inputs;
  std::vector<End> outputs;
};

// Throws a bundle error if a graph's inputs or outputs differ from the manifest's. The message
// begins with `subject`.
void check_ends(const std::string& subject, const GraphEnds& actual, const GraphEnds& expected);

// Number and size in pixels of the images in one run, before and after padding. In the shape of a
// graph, negative numbers are those that the graph leaves open.
struct Shape {
  std::int64_t batch = 1;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t padded_height = 0;
  std::int64_t padded_width = 0;
};

// An input or output of a stage, for images of any shape.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::uint8;
  Layout layout = Layout::nhwc;
  std::int64_t channels = 0;
  std::int64_t stride = 1;  // pixels of the image per pixel of the tensor, in each direction

  std::array<std::int64_t, 4> sides(const Shape& shape) const;  // in the order of `layout`
  std::size_t bytes(const Shape& shape) const;
  End end(const Shape& shape) const;
};

// A file of the bundle.
struct File {
  std::string file;  // path relative to the bundle, with '/'
  std::string sha256;
  std::int64_t bytes = 0;
};

// A file that a backend can load: an ONNX graph or an engine.
struct Artifact : File {
  std::string kind;
  std::string precision;
  std::optional<std::string> target;  // compute capability of its devices; none: any device
  std::string tool_version;
  bool version_compatible = false;     // an engine that later releases of its library run, too
  std::string hardware_compatibility;  // which other GPUs an engine runs on, or "none"
};

struct Stage {
  std::string name;
  TensorSpec input;
  std::optional<TensorSpec> noise;
  TensorSpec output;
  std::vector<Artifact> artifacts;

  GraphEnds ends(const Shape& shape) const;
};

// The landmarks of a face in an aligned square of `size` pixels: x and y.
struct Template {
  std::array<std::array<double, 2>, 5> points;
  std::int64_t size;
};

// A face detector, and how to decode its outputs.
struct Detector {
  std::string decoder;
  std::string input;
  std::map<std::string, std::string> outputs;  // meanings by name
  bool bgr;                                    // blue comes first in the input
  std::int64_t multiple;                       // of which the input's sides are multiples
  std::int64_t long_side;                      // longer side to which pictures are shrunk
  double score_threshold;
  double overlap_threshold;
  Template aligned;
  std::vector<Artifact> artifacts;
};

// Agreement of a precision with float32 PyTorch.
struct Verification {
  std::optional<double> psnr_db;  // of the worst photograph; none: identical, or not finite
  bool finite = true;             // the network's outputs are finite
  double floor_db = 0;
  bool passed = false;
  bool automatic = false;  // may run where the user names no precision
};

// A network input and the float32 PyTorch output for it: two PNG files.
struct Reference {
  std::string name;
  std::string input;
  std::string output;
};

enum class Kernel { none, nearest, bicubic };

struct Manifest {
  std::string task;
  int upscale = 1;
  Kernel upscale_kernel = Kernel::none;
  bool faces = false;
  bool random = false;
  double sigma_s = 0;                // standard deviation of the noise
  std::optional<std::int64_t> seed;  // of noise that is an input of the graph; none: a constant
  std::vector<Shape> shapes;
  std::vector<Stage> stages;
  std::optional<Detector> detector;
  std::vector<std::string> precisions;
  std::map<std::string, Verification, std::less<>> verification;  // by precision
  std::vector<Reference> references;
  std::vector<File> files;  // all except the manifest

  const TensorSpec& input() const { return stages.front().input; }
  const TensorSpec& output() const { return stages.back().output; }
  // The noise that is an input of a stage; null: there is none.
  const TensorSpec* noise() const;
  // The shape that the graphs are made for.
  Shape graph_shape() const;

  const Verification* verified(std::string_view precision) const;  // null: not verified
};

// Throws a bundle error if `data` is not strict JSON, not a manifest, of another format version,
// invalid by the schema or inconsistent. Rejects the same manifests as elir_deploy.runtime.
Manifest read_manifest(std::string_view data);

}  // namespace elir::core
