// The manifest of a bundle, bundle.json, checked and with types. See docs/bundle-format.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace elir::core {

inline constexpr std::string_view kManifestName = "bundle.json";
inline constexpr std::string_view kFormatName = "elir-bundle";
inline constexpr std::int64_t kFormatVersion = 1;
// A manifest is some tens of kilobytes; more than this is not one.
inline constexpr std::size_t kMaxManifestBytes = std::size_t{16} << 20U;
// A tensor between stages larger than this is a damaged manifest.
inline constexpr std::int64_t kMaxTensorBytes = std::int64_t{1} << 30;

enum class Dtype { uint8, float32 };
enum class Layout { nhwc, nchw };

// A tensor handed to or taken from a stage: one picture or latent.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::uint8;
  std::int64_t shape[4] = {};  // in the order of `layout`; the first is the batch
  Layout layout = Layout::nhwc;

  std::int64_t height() const { return shape[layout == Layout::nhwc ? 1 : 2]; }
  std::int64_t width() const { return shape[layout == Layout::nhwc ? 2 : 3]; }
  std::int64_t channels() const { return shape[layout == Layout::nhwc ? 3 : 1]; }
  std::size_t bytes() const;  // of a spec that was checked
  std::string describe() const;
};

bool operator==(const TensorSpec& a, const TensorSpec& b);
inline bool operator!=(const TensorSpec& a, const TensorSpec& b) { return !(a == b); }

// One stage made into one file.
struct Artifact {
  std::string file;  // relative, with '/'
  std::string kind;
  std::string precision;
  std::optional<std::string> target;  // devices it was made for; none: any
  std::string tool;
  std::string tool_version;
  std::string sha256;
  std::int64_t bytes = 0;
  bool version_compatible = false;              // an engine for later releases of its library too
  std::string hardware_compatibility = "none";  // of an engine: which other GPUs it is for
};

struct Stage {
  std::string name;
  TensorSpec input;
  TensorSpec output;
  std::vector<Artifact> artifacts;
};

// Agreement of a precision with float32 PyTorch.
struct Verification {
  std::string precision;
  std::optional<double> psnr_db;  // of the worst image; none where all are identical
  double floor_db = 0;
  bool passed = false;
};

// A network input and what float32 PyTorch makes of it: two PNG files.
struct Reference {
  std::string name;
  std::string input;
  std::string output;
};

enum class Kernel { none, nearest, bicubic };

struct Manifest {
  std::string task;
  int image_size = 0;
  int upscale = 1;
  Kernel upscale_kernel = Kernel::none;
  bool faces = false;
  bool random = false;
  TensorSpec input;
  TensorSpec output;
  std::vector<Stage> stages;
  std::vector<std::string> precisions;
  std::vector<Verification> verification;
  std::vector<Reference> references;
  // Every file but the manifest with its SHA-256, in the manifest's order.
  std::vector<std::pair<std::string, std::string>> file_hashes;

  const Verification* verified(std::string_view precision) const;  // null if it was not
};

// Throws a bundle error: no strict JSON, not a manifest, of a newer format, against the schema, or
// inconsistent in itself. The messages are the Python runtime's.
Manifest read_manifest(std::string_view json);

}  // namespace elir::core
