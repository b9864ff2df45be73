#include "manifest.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "embedded.hpp"
#include "error.hpp"
#include "json.hpp"
#include "messages.hpp"
#include "schema.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

constexpr std::array<std::string_view, 4> kSplitStages = {"encoder", "estimator", "flow",
                                                          "decoder"};

void check_version(const Json& manifest) {
  const Json* version = manifest.find("format_version");
  if (version == nullptr || !version->is_integer() || version->number() < 1) {
    const std::string seen = version == nullptr ? "None" : shortened(version->repr());
    throw bundle_error(message("bundle_version", {{"seen", seen}, {"wanted", kFormatVersion}}));
  }
  if (version->number() > static_cast<double>(kFormatVersion)) {
    const Json* versions = manifest.find("versions");
    const Json* maker = versions == nullptr ? nullptr : versions->find("elir-deploy");
    const std::string by = maker == nullptr || maker->is_empty()
                               ? ""
                               : message("bundle_newer_by", {{"maker", shortened(maker->repr())}});
    throw bundle_error(message(
        "bundle_newer",
        {{"by", by}, {"version", version->repr()}, {"own", kVersion}, {"wanted", kFormatVersion}}));
  }
}

void check_schema(const Json& manifest) {
  static const Schema schema{parse_json(kManifestSchema)};
  schema.check(manifest);
}

// An integer that the schema lets be 1.0.
std::int64_t integer(const Json& record, const std::string& where, std::string_view key) {
  const Json& value = record[key];
  if (!value.is_integer()) {
    throw bundle_error(message(
        "manifest_integer", {{"place", where}, {"entry", key}, {"seen", shortened(value.repr())}}));
  }
  // A number of parameters or bytes beyond 64 bits fits no file; its size will tell.
  return value.is<std::int64_t>() ? value.as<std::int64_t>() : INT64_MAX;
}

const std::string& string(const Json& record, std::string_view key) {
  return record[key].as<std::string>();
}

TensorSpec tensor(const Json& values, const std::string& where) {
  const auto& shape = values["shape"].as<Json::Array>();
  if (std::any_of(shape.begin(), shape.end(),
                  [](const Json& side) { return !side.is_integer(); })) {
    throw bundle_error(
        message("manifest_shape", {{"place", where}, {"seen", shortened(values["shape"].repr())}}));
  }
  TensorSpec made;
  made.name = string(values, "name");
  made.dtype = string(values, "dtype") == "uint8" ? Dtype::uint8 : Dtype::float32;
  for (std::size_t i = 0; i < 4; ++i) made.shape[i] = shape[i].as<std::int64_t>();
  made.layout = string(values, "layout") == "NHWC" ? Layout::nhwc : Layout::nchw;
  return made;
}

Artifact artifact(const Json& values, const std::string& where) {
  Artifact made;
  made.file = string(values, "file");
  made.kind = string(values, "kind");
  made.precision = string(values, "precision");
  if (values["target"].is<std::string>()) made.target = string(values, "target");
  made.tool = string(values, "tool");
  made.tool_version = string(values, "tool_version");
  made.sha256 = string(values, "sha256");
  made.bytes = integer(values, where, "bytes");
  const Json* compatible = values.find("version_compatible");
  made.version_compatible = compatible != nullptr && compatible->as<bool>();
  if (values.find("hardware_compatibility") != nullptr) {
    made.hardware_compatibility = string(values, "hardware_compatibility");
  }
  return made;
}

void check_range(const Json& manifest, std::string_view end) {
  const Json& range = manifest[end]["range"];
  const bool bytes = string(manifest[end], "dtype") == "uint8";
  const auto& ends = range.as<Json::Array>();
  if (ends[0].number() == 0 && ends[1].number() == (bytes ? 255 : 1)) return;
  throw bundle_error(message("image_range", {{"end", end},
                                             {"seen", shortened(range.repr())},
                                             {"wanted", bytes ? "[0, 255]" : "[0, 1]"},
                                             {"dtype", bytes ? "uint8" : "float32"}}));
}

// In the order of the Python runtime, so that of several things wrong the same one is named.
Manifest typed(const Json& manifest) {
  Manifest made;
  const auto& stages = manifest["stages"].as<Json::Array>();
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const std::string where = text("stages[", i, "]");
    Stage stage;
    stage.name = string(stages[i], "name");
    stage.input = tensor(stages[i]["input"], where + ".input");
    stage.output = tensor(stages[i]["output"], where + ".output");
    for (const Json& values : stages[i]["artifacts"].as<Json::Array>()) {
      stage.artifacts.push_back(artifact(values, where));
      made.file_hashes.emplace_back(stage.artifacts.back().file, stage.artifacts.back().sha256);
    }
    made.stages.push_back(std::move(stage));
  }
  check_range(manifest, "input");
  check_range(manifest, "output");
  const Json* quantization = manifest.find("quantization");
  if (quantization != nullptr) {
    integer(*quantization, "quantization", "images");
    if (quantization->find("smallest_layer") != nullptr) {
      integer(*quantization, "quantization", "smallest_layer");
    }
  }

  const Json& model = manifest["model"];
  made.task = string(model, "task");
  made.image_size = static_cast<int>(integer(model, "model", "image_size"));
  integer(model, "model", "steps");
  made.upscale = static_cast<int>(integer(model, "model", "upscale"));
  const std::string& kernel = string(model, "upscale_kernel");
  made.upscale_kernel = kernel == "none"      ? Kernel::none
                        : kernel == "nearest" ? Kernel::nearest
                                              : Kernel::bicubic;
  made.faces = model["faces"].as<bool>();
  integer(model, "model", "parameters");

  made.random = manifest["source"]["random"].as<bool>();
  made.input = tensor(manifest["input"], "input");
  made.output = tensor(manifest["output"], "output");
  for (const Json& precision : manifest["precisions"].as<Json::Array>()) {
    made.precisions.push_back(precision.as<std::string>());
  }
  for (const JsonMember& entry : manifest["verification"].as<Json::Object>()) {
    Verification verification;
    verification.precision = entry.key;
    const Json& psnr = entry.value["psnr_db"];
    if (psnr.is_number()) verification.psnr_db = psnr.number();
    verification.floor_db = entry.value["floor_db"].number();
    verification.passed = entry.value["passed"].as<bool>();
    made.verification.push_back(std::move(verification));
  }
  for (const Json& values : manifest["references"].as<Json::Array>()) {
    made.references.push_back(
        {string(values, "name"), string(values, "input"), string(values, "output")});
    made.file_hashes.emplace_back(string(values, "input"), string(values, "input_sha256"));
    made.file_hashes.emplace_back(string(values, "output"), string(values, "output_sha256"));
  }
  if (quantization != nullptr) {
    made.file_hashes.emplace_back(string(*quantization, "file"), string(*quantization, "sha256"));
  }
  return made;
}

void check_model(const Manifest& info, const std::string& kernel) {
  const std::int64_t side = info.image_size;
  for (const auto& [name, spec] :
       {std::make_pair("input", &info.input), {"output", &info.output}}) {
    if (spec->shape[0] != 1 || spec->height() != side || spec->width() != side ||
        spec->channels() != 3) {
      throw bundle_error(
          message("image_shape", {{"end", name}, {"seen", spec->describe()}, {"side", side}}));
    }
  }
  if ((info.upscale == 1) != (info.upscale_kernel == Kernel::none)) {
    throw bundle_error(
        message("upscale_kernel", {{"factor", info.upscale}, {"kernel", python_repr(kernel)}}));
  }
  const auto factor = static_cast<unsigned>(info.upscale);
  if (info.upscale_kernel == Kernel::bicubic && (factor & (factor - 1)) != 0) {
    throw bundle_error(message("upscale_bicubic", {{"factor", info.upscale}}));
  }
}

bool too_large(const TensorSpec& spec) {
  std::int64_t bytes = spec.dtype == Dtype::uint8 ? 1 : 4;
  for (const std::int64_t side : spec.shape) {  // each at most 65536
    bytes *= side;
    if (bytes > kMaxTensorBytes) return true;
  }
  return false;
}

void check_chain(const Manifest& info) {
  std::vector<std::string> names;
  for (const Stage& stage : info.stages) names.push_back(stage.name);
  const bool split =
      std::equal(names.begin(), names.end(), kSplitStages.begin(), kSplitStages.end());
  if (!split && names != std::vector<std::string>{"fused"}) {
    throw bundle_error(message(
        "stage_names", {{"seen", joined(names, ", ")},
                        {"wanted", joined({kSplitStages.begin(), kSplitStages.end()}, ", ")}}));
  }
  std::string before = "input";
  const TensorSpec* handed = &info.input;
  for (const Stage& stage : info.stages) {
    if (stage.input != *handed) {
      throw bundle_error(message("stage_takes", {{"stage", stage.name},
                                                 {"seen", stage.input.describe()},
                                                 {"before", before},
                                                 {"handed", handed->describe()}}));
    }
    before = message("stage_output", {{"stage", stage.name}});
    handed = &stage.output;
    if (too_large(stage.input) || too_large(stage.output)) {
      throw bundle_error(
          message("tensor_large", {{"stage", stage.name}, {"limit", kMaxTensorBytes}}));
    }
  }
  if (*handed != info.output) {
    throw bundle_error(message(
        "stages_give",
        {{"seen", info.output.describe()}, {"before", before}, {"handed", handed->describe()}}));
  }
}

void check_files(const Manifest& info) {
  std::set<std::string_view> seen = {kManifestName};
  for (const auto& [file, hash] : info.file_hashes) {
    if (!seen.insert(file).second) {
      throw bundle_error(message("file_named_twice", {{"file", file}}));
    }
  }
  std::vector<std::string> names;
  for (const Reference& reference : info.references) names.push_back(reference.name);
  if (std::set<std::string>(names.begin(), names.end()).size() != names.size()) {
    throw bundle_error(message("references_alike", {{"names", joined(names, ", ")}}));
  }
  for (const Stage& stage : info.stages) {
    std::set<std::tuple<std::string, std::string, std::optional<std::string>>> made;
    for (const Artifact& artifact : stage.artifacts) {
      const auto& all = info.precisions;
      if (std::find(all.begin(), all.end(), artifact.precision) == all.end()) {
        throw bundle_error(message("file_precision", {{"file", artifact.file},
                                                      {"precision", artifact.precision},
                                                      {"precisions", joined(all, ", ")}}));
      }
      if (!made.insert({artifact.kind, artifact.precision, artifact.target}).second) {
        const std::string target = artifact.target.value_or("");
        throw bundle_error(
            message("file_twice", {{"stage", stage.name},
                                   {"kind", artifact.kind},
                                   {"precision", artifact.precision},
                                   {"target", target.empty() ? message("any_device") : target}}));
      }
    }
  }
}

}  // namespace

std::size_t TensorSpec::bytes() const {
  return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]) *
         (dtype == Dtype::uint8 ? 1 : 4);
}

std::string TensorSpec::describe() const {
  return message("tensor", {{"name", name},
                            {"dtype", dtype == Dtype::uint8 ? "uint8" : "float32"},
                            {"sides", text(shape[0], "x", shape[1], "x", shape[2], "x", shape[3])},
                            {"layout", layout == Layout::nhwc ? "NHWC" : "NCHW"}});
}

bool operator==(const TensorSpec& a, const TensorSpec& b) {
  return a.name == b.name && a.dtype == b.dtype && a.layout == b.layout &&
         std::equal(std::begin(a.shape), std::end(a.shape), std::begin(b.shape));
}

const Verification* Manifest::verified(std::string_view precision) const {
  const auto found = std::find_if(verification.begin(), verification.end(),
                                  [&](const Verification& v) { return v.precision == precision; });
  return found == verification.end() ? nullptr : &*found;
}

Manifest read_manifest(std::string_view json) {
  const Json manifest = parse_json(json);
  const Json* format = manifest.find("format");
  if (format == nullptr || !format->is<std::string>() || format->as<std::string>() != kFormatName) {
    throw bundle_error(message("bundle_format", {{"format", kFormatName}}));
  }
  check_version(manifest);
  check_schema(manifest);
  Manifest made = typed(manifest);
  check_model(made, string(manifest["model"], "upscale_kernel"));
  check_chain(made);
  check_files(made);
  return made;
}

}  // namespace elir::core
