#include "manifest.hpp"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "embedded.hpp"
#include "error.hpp"
#include "json.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

// From the inside out: the destructor of a full value allocates, and ends the process where that
// fails.
void empty(json& value) {
  if (!value.is_structured()) return;
  for (json& inner : value) empty(inner);
  value.clear();
}

// For comparisons with literals: json makes a value of them, and cannot fail either.
const std::string& string(const json& value) { return value.get_ref<const std::string&>(); }

// The entry, if it is there and not null.
const json* optional(const json& values, const char* key) {
  const auto found = values.find(key);
  return found == values.end() || found->is_null() ? nullptr : &*found;
}

void check_format(const json& manifest) {
  const json* format = optional(manifest, "format");
  if (format == nullptr || !format->is_string() || string(*format) != kFormatName) {
    throw bundle_error("not the manifest of a bundle: it has no \"format\": \"", kFormatName, "\"");
  }
  const json* version = optional(manifest, "format_version");
  if (version == nullptr || !version->is_number_integer() || *version < 1) {
    throw bundle_error("/format_version is ",
                       version == nullptr ? "missing" : shortened(version->dump(), 60),
                       ", expected ", kFormatVersion);
  }
  if (*version == kFormatVersion) return;
  throw bundle_error("bundle format ", version->dump(), ", and libelir ", kVersion,
                     " reads format ", kFormatVersion,
                     *version > kFormatVersion
                         ? ": upgrade libelir"
                         : ": make the bundle again with elir-export CHECKPOINT -o FOLDER");
}

// Reading values that fit the schema --------------------------------------------------------------

// A tensor in every shape.
struct Tensor {
  TensorSpec spec;  // without its shape
  std::int64_t channels;
  std::int64_t stride;  // side of one of its pixels in pixels of the image
  bool is_image;

  TensorSpec in(const Shape& shape) const {
    const std::int64_t height = shape.padded_height / stride;
    const std::int64_t width = shape.padded_width / stride;
    TensorSpec made = spec;
    if (spec.layout == Layout::nhwc) {
      made.shape = {shape.batch, height, width, channels};
    } else {
      made.shape = {shape.batch, channels, height, width};
    }
    return made;
  }
};
using Tensors = std::map<std::string, Tensor>;

Tensors tensors_of(const json& manifest) {
  Tensors made;
  for (const auto& [name, values] : manifest["tensors"].items()) {
    Tensor& tensor = made[name];
    const bool bytes = string(values["dtype"]) == "uint8";
    tensor.spec.name = name;
    tensor.spec.dtype = bytes ? Dtype::uint8 : Dtype::float32;
    tensor.spec.layout = string(values["layout"]) == "NHWC" ? Layout::nhwc : Layout::nchw;
    tensor.channels = values["channels"];
    tensor.stride = values["stride"];
    const json* range = optional(values, "range");
    tensor.is_image = tensor.channels == 3 && tensor.stride == 1 && range != nullptr &&
                      (*range)[0] == 0 && (*range)[1] == (bytes ? 255 : 1);
  }
  return made;
}

const Tensor& named(const Tensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  throw bundle_error("a stage names the tensor ", name, ", which is not in /tensors");
}

// What `read` makes of each of the values.
template <typename Read>
auto all(const json& values, Read read) {
  std::vector<decltype(read(values))> made;
  for (const json& each : values) made.push_back(read(each));
  return made;
}

File file(const json& values) { return {values["file"], values["sha256"], values["bytes"]}; }

Artifact artifact(const json& values) {
  Artifact made{file(values),
                values["kind"],
                values["precision"],
                {},
                values["tool_version"],
                values.value("version_compatible", false),
                values.value("hardware_compatibility", "none")};
  if (const json* target = optional(values, "target")) made.target = *target;
  return made;
}

Shape shape(const json& values) {
  const json* height = optional(values, "padded_height");
  const json* width = optional(values, "padded_width");
  if ((height == nullptr) != (width == nullptr)) {
    throw bundle_error("a shape has one padded side, expected both or neither");
  }
  return {values["batch"], values["height"], values["width"],
          height == nullptr ? values["height"] : *height,
          width == nullptr ? values["width"] : *width};
}

Reference reference(const json& values) {
  return {values["name"], values["input"]["file"], values["output"]["file"]};
}

// Every file but the manifest.
std::vector<File> files_of(const json& manifest) {
  std::vector<File> made;
  const auto add_all = [&](const json& artifacts) {
    for (const json& each : artifacts) made.push_back(file(each));
  };
  for (const json& stage : manifest["stages"]) add_all(stage["artifacts"]);
  for (const json& each : manifest["references"]) {
    made.push_back(file(each["input"]));
    made.push_back(file(each["output"]));
  }
  if (const json* quantization = optional(manifest, "quantization")) {
    made.push_back(file(*quantization));
  }
  if (const json* detector = optional(manifest, "detector")) {
    add_all((*detector)["artifacts"]);
    made.push_back(file((*detector)["licence_file"]));
  }
  return made;
}

Manifest typed(const json& manifest, const Tensors& tensors) {
  Manifest made;
  const json& model = manifest["model"];
  const std::string& kernel = string(model["upscale_kernel"]);
  made.task = model["task"];
  made.upscale = model["upscale"];
  made.upscale_kernel = kernel == "none"      ? Kernel::none
                        : kernel == "nearest" ? Kernel::nearest
                                              : Kernel::bicubic;
  made.faces = model["faces"];
  made.random = manifest["source"]["random"];
  made.field_noise = string(manifest["noise"]["kind"]) == "field";
  made.detector = optional(manifest, "detector") != nullptr;
  made.shapes = all(manifest["shapes"], shape);
  made.stages = all(manifest["stages"], [&](const json& values) -> Stage {
    return {values["name"], named(tensors, values["inputs"][0]).in(made.shapes.front()),
            named(tensors, values["output"]).in(made.shapes.front()),
            all(values["artifacts"], artifact)};
  });
  made.precisions = manifest["precisions"].get<std::vector<std::string>>();
  for (const auto& [precision, values] : manifest["verification"].items()) {
    Verification& result = made.verification[precision];
    result = {{}, values["floor_db"], values["passed"], values["automatic"],
              optional(values, "max_error") != nullptr};
    if (const json* psnr = optional(values, "psnr_db")) result.psnr_db = *psnr;
  }
  made.references = all(manifest["references"], reference);
  made.files = files_of(manifest);
  return made;
}

// What no schema can say --------------------------------------------------------------------------

void check_model(const Manifest& info, const json& resize) {
  if ((info.upscale == 1) != (info.upscale_kernel == Kernel::none)) {
    throw bundle_error("/model/upscale is ", info.upscale, ", and /model/upscale_kernel disagrees");
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
  if (info.shapes.size() > 1 && !info.field_noise) {
    throw bundle_error("noise is baked into the graph, and there are several shapes");
  }
  std::set<std::pair<std::int64_t, std::int64_t>> sizes;
  for (const Shape& shape : info.shapes) {
    const std::string size = text("the shape ", shape.width, "x", shape.height);
    if (!sizes.emplace(shape.height, shape.width).second)
      throw bundle_error(size, " is there twice");
    if (shape.padded_height < shape.height || shape.padded_width < shape.width) {
      throw bundle_error(size, " is padded to less than its own size");
    }
    for (const auto& [name, tensor] : tensors) {
      if (shape.padded_height % tensor.stride != 0 || shape.padded_width % tensor.stride != 0) {
        throw bundle_error(size, " does not divide by the stride ", tensor.stride, " of ", name);
      }
      if (tensor.in(shape).bytes() > kMaxTensorBytes) {
        throw bundle_error(name, " has more than ", kMaxTensorBytes, " bytes in ", size);
      }
    }
  }
}

Failure no_image(const std::string& tensor) {
  return bundle_error("/tensors/", tensor, " is no image: expected 3 channels, stride 1 and the ",
                      "range [0, 255] of uint8 or [0, 1] of float32");
}

void check_chain(const json& stages, const Tensors& tensors, bool field_noise) {
  const std::vector<std::string> split = {"encoder", "estimator", "flow", "decoder"};
  const auto names = all(stages, [](const json& stage) { return string(stage["name"]); });
  if (names != std::vector<std::string>{"fused"} && names != split) {
    throw bundle_error("the stages are ", joined(names, ", "), ", expected fused, or ",
                       joined(split, ", "));
  }
  std::string handed = stages[0]["inputs"][0];
  if (!named(tensors, handed).is_image) throw no_image(handed);
  for (const json& stage : stages) {
    const std::string& name = string(stage["name"]);
    const auto seen = stage["inputs"].get<std::vector<std::string>>();
    std::vector<std::string> wanted = {handed};
    if (field_noise && (name == "fused" || name == "flow")) wanted.emplace_back("noise");
    if (seen != wanted) {
      throw bundle_error(name, " takes ", joined(seen, " and "), ", expected ",
                         joined(wanted, " and "));
    }
    static_cast<void>(named(tensors, wanted.back()));
    handed = stage["output"];
  }
  if (!named(tensors, handed).is_image) throw no_image(handed);
}

void check_files(const Manifest& info) {
  std::set<std::string_view> seen = {kManifestName};
  for (const File& file : info.files) {
    if (!seen.insert(file.file).second) throw bundle_error("two entries name the file ", file.file);
  }
  std::set<std::string_view> names;
  for (const Reference& reference : info.references) {
    if (!names.insert(reference.name).second) {
      throw bundle_error("two references have the name ", reference.name);
    }
  }
  const std::set<std::string> precisions(info.precisions.begin(), info.precisions.end());
  for (const Stage& stage : info.stages) {
    std::set<std::tuple<std::string, std::string, std::optional<std::string>>> made;
    for (const Artifact& artifact : stage.artifacts) {
      if (precisions.count(artifact.precision) == 0) {
        throw bundle_error(artifact.file, " is ", artifact.precision, ", and /precisions are ",
                           joined(info.precisions, ", "));
      }
      if (!made.insert({artifact.kind, artifact.precision, artifact.target}).second) {
        throw bundle_error(stage.name, " has two ", artifact.kind, " files of ", artifact.precision,
                           " for ", artifact.target.value_or("any device"));
      }
    }
  }
}

}  // namespace

std::size_t TensorSpec::bytes() const {
  return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]) *
         (dtype == Dtype::uint8 ? 1 : 4);
}

std::string End::describe() const {
  std::vector<std::string> written;
  for (const std::int64_t side : sides) {
    if (written.size() < 8) written.push_back(side < 0 ? "?" : std::to_string(side));
  }
  return text(shown(name), ": ", dtype, " ", joined(written, "x"));
}

void check_ends(const std::string& whose, const std::vector<End>& seen,
                const std::vector<End>& expected) {
  const auto same = [](const End& a, const End& b) {
    return a.name == b.name && a.dtype == b.dtype && a.sides == b.sides;
  };
  if (std::equal(seen.begin(), seen.end(), expected.begin(), expected.end(), same)) return;
  const auto described = [](const std::vector<End>& ends) {
    std::vector<std::string> some;
    for (const End& end : ends) {
      if (some.size() < 4) some.push_back(end.describe());
    }
    return some.empty() ? "nothing" : joined(some, ", ");
  };
  throw bundle_error(whose, " is ", described(seen), ", the manifest says ", described(expected),
                     ": the files of two bundles were mixed, copy the bundle again");
}

const Verification* Manifest::verified(std::string_view precision) const {
  const auto result = verification.find(precision);
  return result == verification.end() ? nullptr : &result->second;
}

Manifest read_manifest(std::string_view data) {
  static const Schema schema{parse_json(kManifestSchema)};
  json manifest = parse_json(data);
  const auto guard = [](json* value) { empty(*value); };
  const std::unique_ptr<json, decltype(guard)> emptied(&manifest, guard);
  check_format(manifest);
  schema.check(manifest);
  const Tensors tensors = tensors_of(manifest);
  Manifest made = typed(manifest, tensors);
  check_model(made, manifest["resize"]);
  check_shapes(made, tensors);
  check_chain(manifest["stages"], tensors, made.field_noise);
  check_files(made);
  return made;
}

void check_served(const Manifest& manifest) {
  const Shape& shape = manifest.shapes.front();
  const char* reason = nullptr;
  if (manifest.field_noise) reason = "noise is an input of its graph";
  if (shape.batch > 1) reason = "it takes batches";
  if (shape.padded_height != shape.height || shape.padded_width != shape.width) {
    reason = "its images are padded";
  }
  if (shape.height != shape.width) reason = "its images are not square";
  if (reason != nullptr) {
    throw bundle_error("libelir ", kVersion, " cannot run this bundle yet: ", reason);
  }
}

}  // namespace elir::core
