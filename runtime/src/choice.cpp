#include "choice.hpp"

#include <algorithm>
#include <iterator>
#include <set>

#include "backends/all.hpp"
#include "error.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

// What "auto" prefers, fastest first and of equals the more exact: the Python runtime's order.
constexpr std::pair<std::string_view, std::string_view> kAutomatic[] = {
    {"tensorrt", "int8"},    {"tensorrt", "fp16"},     {"tensorrt-rtx", "fp16"},
    {"tensorrt", "fp32"},    {"tensorrt-rtx", "fp32"}, {"tensorrt-rtx", "int8"},
    {"openvino", "int8"},    {"openvino", "bf16"},     {"openvino", "fp32"},
    {"openvino", "fp16"},    {"onnxruntime", "fp32"},  {"onnxruntime", "int8"},
    {"onnxruntime", "fp16"},
};

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::vector<std::string> known() {
  std::vector<std::string> names;
  for (const Backend* backend : backends()) names.push_back(backend->name);
  return names;
}

std::string missed(const Verification& verification) {
  const std::string reached =
      verification.psnr_db ? text(with_one_digit(*verification.psnr_db), " dB") : "not finite";
  return text(verification.precision, " ", reached, ", floor ", verification.floor_db, " dB");
}

void check_wish(const Backend& backend, const Bundle& bundle, const std::string& precision) {
  const std::vector<std::string> held = backend.held_precisions(bundle);
  if (!contains(backend.precisions, precision)) {
    throw usage_error(backend.name, " does not run in ", precision, ": choose one of ",
                      joined(held, ", "));
  }
  if (!contains(held, precision)) {
    throw usage_error(bundle.path().string(), " holds no ", file_precision(precision),
                      " files for ", backend.name, ": choose one of ", joined(held, ", "));
  }
  if (const auto reason = backend.unsupported(precision)) {
    throw unavailable_error(backend.name, " cannot run in ", precision, ": ", *reason);
  }
}

// What passed verification comes before what was not verified.
std::pair<bool, std::ptrdiff_t> rank(const Bundle& bundle, const Candidate& candidate) {
  const auto place = std::find(
      std::begin(kAutomatic), std::end(kAutomatic),
      std::pair<std::string_view, std::string_view>(candidate.backend->name, candidate.precision));
  return {bundle.manifest().verified(candidate.precision) == nullptr,
          std::distance(std::begin(kAutomatic), place)};
}

[[noreturn]] void refuse(const Bundle& bundle, const std::vector<std::string>& reasons) {
  if (!reasons.empty()) {
    throw unavailable_error("nothing here can run ", bundle.path().string(), ": ",
                            joined(reasons, "; "));
  }
  std::set<std::string> kinds;
  for (const Stage& stage : bundle.manifest().stages) {
    for (const Artifact& artifact : stage.artifacts) kinds.insert(artifact.kind);
  }
  throw bundle_error(bundle.path().string(), " holds only ",
                     joined({kinds.begin(), kinds.end()}, ", "),
                     " files that no backend here can load; backends: ", joined(known(), ", "));
}

}  // namespace

const Backend& backend_named(const std::string& name) {
  for (const Backend* backend : backends()) {
    if (backend->name == name) return *backend;
  }
  throw usage_error("no backend '", name, "': choose one of auto, ", joined(known(), ", "));
}

std::vector<Candidate> candidates(const Bundle& bundle, const std::string& precision) {
  std::vector<Candidate> found;
  std::vector<std::string> reasons;  // of those that hold what is wanted
  std::vector<std::string> others;
  std::vector<Failure> refusals;
  for (const Backend* backend : backends()) {
    const std::vector<std::string> held = backend->held_precisions(bundle);
    if (!backend->automatic || held.empty()) continue;
    if (const auto reason = backend->available()) {
      const bool fitting = precision.empty() || contains(held, precision);
      (fitting ? reasons : others).push_back(text(backend->name, ": ", *reason));
      continue;
    }
    try {
      for (std::string& usable : precisions_to_try(*backend, bundle, precision)) {
        found.push_back({backend, std::move(usable)});
      }
    } catch (const Failure& failure) {
      if (failure.status() == ELIR_ERROR_USAGE) {
        refusals.push_back(failure);
      } else {
        reasons.emplace_back(failure.what());
      }
    }
  }
  if (found.empty()) {
    if (!refusals.empty() && (precision.empty() || reasons.empty()))
      throw Failure(refusals.front());
    refuse(bundle, reasons.empty() ? others : reasons);
  }
  std::stable_sort(found.begin(), found.end(), [&](const Candidate& a, const Candidate& b) {
    return rank(bundle, a) < rank(bundle, b);
  });
  return found;
}

std::vector<std::string> precisions_to_try(const Backend& backend, const Bundle& bundle,
                                           const std::string& precision) {
  const std::vector<std::string> held = backend.held_precisions(bundle);
  if (held.empty()) {
    throw bundle_error(bundle.path().string(), " holds no files for the backend ", backend.name);
  }
  if (!precision.empty()) {
    check_wish(backend, bundle, precision);
    return {precision};
  }
  std::vector<std::string> passed;
  std::vector<std::string> unknown;
  std::vector<std::string> failed;
  for (const std::string& each : held) {
    const Verification* verification = bundle.manifest().verified(each);
    // bf16 is not what the files hold, so it runs only where it was verified.
    if (verification == nullptr && each != file_precision(each)) continue;
    if (backend.unsupported(each)) continue;
    if (verification == nullptr) {
      unknown.push_back(each);
    } else if (verification->passed) {
      passed.push_back(each);
    } else {
      failed.push_back(missed(*verification));
    }
  }
  if (!passed.empty()) return passed;
  if (!unknown.empty()) return unknown;
  throw usage_error(bundle.path().string(), ": no precision passed verification (",
                    joined(failed, ", "), "): name one to run it all the same");
}

}  // namespace elir::core
