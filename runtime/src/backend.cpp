#include "backend.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "error.hpp"

namespace elir::core {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Buffer::Buffer(std::size_t bytes) : data_(::operator new(bytes, kAlignment)) {
  std::memset(data_.get(), 0, bytes);
}

void Buffer::Free::operator()(void* data) const { ::operator delete(data, kAlignment); }

std::vector<std::string> Backend::held_precisions(const Bundle& bundle) const {
  const auto& stages = bundle.manifest().stages;
  std::vector<std::string> held;
  for (const std::string& precision : precisions) {
    if (std::all_of(stages.begin(), stages.end(),
                    [&](const Stage& stage) { return fitting(stage, precision) != nullptr; })) {
      held.push_back(precision);
    }
  }
  return held;
}

std::vector<const Artifact*> Backend::artifacts(const Bundle& bundle,
                                                const std::string& precision) const {
  std::vector<const Artifact*> chosen;
  for (const Stage& stage : bundle.manifest().stages) {
    chosen.push_back(fitting(stage, precision));
    if (chosen.back() == nullptr) {
      throw bundle_error(bundle.path().string(), ": ", stage.name, " has no ",
                         file_precision(precision), " ", kind, " file that ", name, " can load");
    }
  }
  return chosen;
}

const Artifact* Backend::fitting(const Stage& stage, const std::string& precision) const {
  const auto found =
      std::find_if(stage.artifacts.begin(), stage.artifacts.end(), [&](const Artifact& artifact) {
        return artifact.precision == file_precision(precision) && takes(artifact);
      });
  return found == stage.artifacts.end() ? nullptr : &*found;
}

std::string described(const std::string& name, const char* type,
                      const std::vector<std::int64_t>& sides) {
  std::vector<std::string> written;
  for (const std::int64_t side : sides) written.push_back(side < 0 ? "?" : std::to_string(side));
  return text(name, ": ", type, " ", joined(written, "x"));
}

void check_end(const std::filesystem::path& file, const char* end,
               const std::vector<std::string>& seen, const TensorSpec& spec) {
  const std::string expected =
      described(spec.name, type_name(spec.dtype), {spec.shape.begin(), spec.shape.end()});
  if (seen == std::vector<std::string>{expected}) return;
  throw bundle_error(file.string(), ": its ", end, " is ",
                     seen.empty() ? "missing" : joined(seen, ", "), ", the manifest says ",
                     expected);
}

const std::string& file_precision(const std::string& precision) {
  static const std::string kFp32 = "fp32";
  return precision == "bf16" ? kFp32 : precision;
}

}  // namespace elir::core
