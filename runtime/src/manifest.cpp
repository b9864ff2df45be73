#include "manifest.hpp"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "embedded.hpp"
#include "error.hpp"
#include "json.hpp"
#include "manifest_rules.hpp"
#include "noise.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

constexpr const char* kNoise = "noise";  // the input that is noise

// Clears from the inside out: the destructor of a nested value allocates, and terminates the
// process if that fails.
void clear(json& value) {
  if (!value.is_structured()) return;
  for (json& inner : value) clear(inner);
  value.clear();
}

// For comparisons with literals, which json would convert to a value.
const std::string& string(const json& value) { return value.get_ref<const std::string&>(); }

// The entry, if it is there and not null.
const json* optional(const json& values, const char* key) {
  const auto entry = values.find(key);
  return entry == values.end() || entry->is_null() ? nullptr : &*entry;
}

void check_format(const json& manifest) {
  const json* format = optional(manifest, "format");
  if (format == nullptr || !format->is_string() || string(*format) != kFormatName) {
    throw bundle_error("not the manifest of a bundle: expected \"format\": \"", kFormatName, "\"");
  }
  const json* version = optional(manifest, "format_version");
  if (version == nullptr || !version->is_number_integer() || *version < 1) {
    throw bundle_error("/format_version is ",
                       version == nullptr ? "missing" : shortened(version->dump(), 60),
                       ", expected ", kFormatVersion);
  }
  if (*version == kFormatVersion) return;
  throw bundle_error("the bundle has format ", version->dump(), ", libelir ", kVersion,
                     " expects format ", kFormatVersion,
                     *version > kFormatVersion
                         ? ": upgrade libelir"
                         : ": export it again with elir-export CHECKPOINT -o FOLDER");
}

// Reading validated values -----------------------------------------------------------------------

struct Tensor : TensorSpec {
  bool is_image;
};
using Tensors = std::map<std::string, Tensor>;

Tensors read_tensors(const json& manifest) {
  Tensors tensors;
  for (const auto& [name, values] : manifest["tensors"].items()) {
    Tensor& tensor = tensors[name];
    const bool bytes = string(values["dtype"]) == "uint8";
    tensor.name = name;
    tensor.dtype = bytes ? Dtype::uint8 : Dtype::float32;
    tensor.layout = string(values["layout"]) == "NHWC" ? Layout::nhwc : Layout::nchw;
    tensor.channels = values["channels"];
    tensor.stride = values["stride"];
    const json* range = optional(values, "range");
    tensor.is_image = tensor.channels == 3 && tensor.stride == 1 && range != nullptr &&
                      (*range)[0] == 0 && (*range)[1] == (bytes ? 255 : 1);
  }
  return tensors;
}

const Tensor& find_tensor(const Tensors& tensors, const std::string& name) {
  const auto entry = tensors.find(name);
  if (entry != tensors.end()) return entry->second;
  throw bundle_error("a stage uses the tensor ", name, ", which is not in /tensors");
}

// `read` of each of the values.
template <typename Read>
auto read_all(const json& values, Read read) {
  std::vector<decltype(read(values))> results;
  for (const json& each : values) results.push_back(read(each));
  return results;
}

File read_file(const json& values) { return {values["file"], values["sha256"], values["bytes"]}; }

Artifact read_artifact(const json& values) {
  Artifact artifact{read_file(values),
                    values["kind"],
                    values["precision"],
                    {},
                    values["tool_version"],
                    values.value("version_compatible", false),
                    values.value("hardware_compatibility", "none")};
  if (const json* target = optional(values, "target")) artifact.target = *target;
  return artifact;
}

Detector read_detector(const json& values) {
  Detector detector{values["decoder"],
                    values["input"],
                    {},
                    string(values["color"]) == "BGR",
                    values["multiple"],
                    values["long_side"],
                    values["score_threshold"],
                    values["overlap_threshold"],
                    {{}, values["template_size"]},
                    read_all(values["artifacts"], read_artifact)};
  for (const auto& [name, meaning] : values["outputs"].items()) detector.outputs[name] = meaning;
  for (std::size_t i = 0; i < detector.aligned.points.size(); ++i) {
    detector.aligned.points[i] = {values["template"][i][0], values["template"][i][1]};
  }
  return detector;
}

Shape read_shape(const json& values) {
  const json* height = optional(values, "padded_height");
  const json* width = optional(values, "padded_width");
  if ((height == nullptr) != (width == nullptr)) {
    throw bundle_error("a shape has one padded side, expected both or none");
  }
  return {values["batch"], values["height"], values["width"],
          height == nullptr ? values["height"] : *height,
          width == nullptr ? values["width"] : *width};
}

Reference read_reference(const json& values) {
  return {values["name"], values["input"]["file"], values["output"]["file"]};
}

// All files except the manifest.
std::vector<File> read_files(const json& manifest) {
  std::vector<File> files;
  const auto add_all = [&](const json& artifacts) {
    for (const json& each : artifacts) files.push_back(read_file(each));
  };
  for (const json& stage : manifest["stages"]) add_all(stage["artifacts"]);
  for (const json& each : manifest["references"]) {
    files.push_back(read_file(each["input"]));
    files.push_back(read_file(each["output"]));
  }
  if (const json* quantization = optional(manifest, "quantization")) {
    files.push_back(read_file(*quantization));
  }
  if (const json* detector = optional(manifest, "detector")) {
    add_all((*detector)["artifacts"]);
    files.push_back(read_file((*detector)["licence_file"]));
  }
  return files;
}

Manifest read_values(const json& manifest, const Tensors& tensors) {
  Manifest result;
  const json& model = manifest["model"];
  const std::string& kernel = string(model["upscale_kernel"]);
  result.task = model["task"];
  result.upscale = model["upscale"];
  result.upscale_kernel = kernel == "none"      ? Kernel::none
                          : kernel == "nearest" ? Kernel::nearest
                                                : Kernel::bicubic;
  result.faces = model["faces"];
  result.random = manifest["source"]["random"];
  result.sigma_s = model["sigma_s"];
  if (string(manifest["noise"]["kind"]) == "field") result.seed = manifest["noise"]["seed"];
  if (const json* detector = optional(manifest, "detector")) {
    result.detector = read_detector(*detector);
  }
  result.shapes = read_all(manifest["shapes"], read_shape);
  result.stages = read_all(manifest["stages"], [&](const json& values) {
    Stage stage{values["name"],
                find_tensor(tensors, values["inputs"][0]),
                {},
                find_tensor(tensors, values["output"]),
                read_all(values["artifacts"], read_artifact)};
    if (values["inputs"].size() > 1) stage.noise = find_tensor(tensors, values["inputs"][1]);
    return stage;
  });
  result.precisions = manifest["precisions"].get<std::vector<std::string>>();
  for (const auto& [precision, values] : manifest["verification"].items()) {
    Verification& entry = result.verification[precision];
    entry = {{},
             optional(values, "max_error") != nullptr,
             values["floor_db"],
             values["passed"],
             values["automatic"]};
    if (const json* psnr = optional(values, "psnr_db")) entry.psnr_db = *psnr;
  }
  result.references = read_all(manifest["references"], read_reference);
  result.files = read_files(manifest);
  return result;
}

// Rules beyond the schema -------------------------------------------------------------------------

void check_model(const Manifest& info, const json& resize) {
  if ((info.upscale == 1) != (info.upscale_kernel == Kernel::none)) {
    throw bundle_error("/model/upscale is ", info.upscale,
                       ", which /model/upscale_kernel contradicts");
  }
  const auto factor = static_cast<unsigned>(info.upscale);
  if (info.upscale_kernel == Kernel::bicubic && (factor & (factor - 1)) != 0) {
    throw bundle_error("/model/upscale is ", info.upscale, ", expected a power of two for bicubic");
  }
  if (resize["a"] != -0.5 || resize["antialias"] != true) {
    throw bundle_error("/resize is ", resize["a"].dump(), ", ", resize["antialias"].dump(),
                       ", expected -0.5, true");
  }
}

void check_shapes(const Manifest& info, const Tensors& tensors) {
  std::set<std::pair<std::int64_t, std::int64_t>> sizes;
  for (const Shape& shape : info.shapes) {
    const std::string size = text("the shape ", shape.width, "x", shape.height);
    if (!sizes.emplace(shape.height, shape.width).second)
      throw bundle_error(size, " is duplicated");
    if (shape.padded_height < shape.height || shape.padded_width < shape.width) {
      throw bundle_error(size, " is padded to less than its own size");
    }
    for (const auto& [name, tensor] : tensors) {
      if (shape.padded_height % tensor.stride != 0 || shape.padded_width % tensor.stride != 0) {
        throw bundle_error(size, " is not divisible by the stride ", tensor.stride, " of ", name);
      }
      if (tensor.bytes(shape) > kMaxTensorBytes) {
        throw bundle_error(name, " has more than ", kMaxTensorBytes, " bytes in ", size);
      }
    }
  }
}

void check_noise(const Manifest& info, const json& noise, const json& tensors) {
  if (!info.seed) {
    if (info.shapes.size() == 1) return;
    throw bundle_error("/noise/kind is baked, and /shapes has several, expected one");
  }
  if (string(noise["generator"]) != kFieldGenerator) {
    throw bundle_error("/noise/generator is ", shortened(noise["generator"].dump(), 60),
                       ", which is unknown, expected ", kFieldGenerator, ": upgrade libelir");
  }
  if (const auto reason = why_not_noise(*info.seed, info.sigma_s)) throw bundle_error(*reason);
  const json* tensor = optional(tensors, kNoise);
  if (tensor == nullptr || string((*tensor)["dtype"]) != "float32" ||
      string((*tensor)["layout"]) != "NCHW" || optional(*tensor, "range") != nullptr) {
    throw bundle_error("/tensors/noise is not a latent: expected float32, NCHW and no range");
  }
  for (const Shape& shape : info.shapes) {
    const std::int64_t least = 2 * (*tensor)["stride"].get<std::int64_t>();
    if (std::min(shape.padded_height, shape.padded_width) >= least) continue;
    throw bundle_error("the shape ", shape.width, "x", shape.height,
                       " is too small for tiles: ", "expected at least ", least,
                       " pixels a side, twice the stride of noise");
  }
}

Failure not_an_image(const std::string& tensor) {
  return bundle_error("/tensors/", tensor,
                      " is not an image: expected 3 channels, stride 1 and the ",
                      "range [0, 255] of uint8 or [0, 1] of float32");
}

void check_chain(const json& stages, const Tensors& tensors, bool field_noise) {
  const std::vector<std::string> split = {"encoder", "estimator", "flow", "decoder"};
  const auto names = read_all(stages, [](const json& stage) { return string(stage["name"]); });
  if (names != std::vector<std::string>{"fused"} && names != split) {
    throw bundle_error("the stages are ", joined(names, ", "), ", expected fused, or ",
                       joined(split, ", "));
  }
  std::string previous = stages[0]["inputs"][0];
  if (!find_tensor(tensors, previous).is_image) throw not_an_image(previous);
  for (const json& stage : stages) {
    const std::string& name = string(stage["name"]);
    const auto inputs = stage["inputs"].get<std::vector<std::string>>();
    std::vector<std::string> expected = {previous};
    if (field_noise && (name == "fused" || name == "flow")) expected.emplace_back(kNoise);
    if (inputs != expected) {
      throw bundle_error(name, " takes ", joined(inputs, " and "), ", expected ",
                         joined(expected, " and "));
    }
    static_cast<void>(find_tensor(tensors, expected.back()));
    previous = stage["output"];
  }
  if (!find_tensor(tensors, previous).is_image) throw not_an_image(previous);
}

void check_files(const Manifest& info) {
  std::set<std::string_view> files = {kManifestName};
  for (const File& file : info.files) {
    if (!files.insert(file.file).second)
      throw bundle_error("two entries name the file ", file.file);
  }
  std::set<std::string_view> names;
  for (const Reference& reference : info.references) {
    if (!names.insert(reference.name).second) {
      throw bundle_error("two references have the name ", reference.name);
    }
  }
  const std::set<std::string> precisions(info.precisions.begin(), info.precisions.end());
  for (const Stage& stage : info.stages) {
    for (const Artifact& artifact : stage.artifacts) {
      if (precisions.count(artifact.precision) == 0) {
        throw bundle_error(artifact.file, " is ", artifact.precision, ", expected one of ",
                           joined(info.precisions, ", "));
      }
    }
  }
}

}  // namespace

const TensorSpec* Manifest::noise() const {
  for (const Stage& stage : stages) {
    if (stage.noise) return &*stage.noise;
  }
  return nullptr;
}

Shape Manifest::graph_shape() const {
  Shape shape = shapes.front();
  const auto batches = [](const Shape& each) { return each.batch > 1; };
  if (std::any_of(shapes.begin(), shapes.end(), batches)) shape.batch = -1;
  if (shapes.size() > 1) shape.padded_height = shape.padded_width = -1;
  return shape;
}

const Verification* Manifest::verified(std::string_view precision) const {
  const auto result = verification.find(precision);
  return result == verification.end() ? nullptr : &result->second;
}

Manifest read_manifest(std::string_view data) {
  static const Schema schema{parse_json(kManifestSchema)};
  json manifest = parse_json(data);
  const auto guard = [](json* value) { clear(*value); };
  const std::unique_ptr<json, decltype(guard)> cleared(&manifest, guard);
  check_format(manifest);
  schema.check(manifest);
  const Tensors tensors = read_tensors(manifest);
  Manifest result = read_values(manifest, tensors);
  check_model(result, manifest["resize"]);
  check_shapes(result, tensors);
  check_noise(result, manifest["noise"], manifest["tensors"]);
  check_chain(manifest["stages"], tensors, result.seed.has_value());
  check_files(result);
  for (const json& stage : manifest["stages"]) {
    check_artifacts(string(stage["name"]), stage["artifacts"]);
  }
  if (const json* detector = optional(manifest, "detector")) check_detector(*detector);
  return result;
}

}  // namespace elir::core
