#include "choice.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "embedded.hpp"
#include "error.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

// How "auto" decides; the same as in Python.
const json& automatic_rules() {
  static const json rules = json::parse(kAutomatic);
  return rules;
}

// Pairs of backend and precision, best first.
const json& automatic() { return automatic_rules().at("order"); }

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

using Among = std::vector<const Backend*>;

std::vector<std::string> names_of(const Among& among) {
  std::vector<std::string> names;
  for (const Backend* backend : among) names.push_back(backend->name);
  return names;
}

// Why `precision` runs only if the user names it; none: it is automatic.
std::optional<std::string> reason_not_automatic(const Bundle& bundle,
                                                const std::string& precision) {
  const Verification* result = bundle.manifest().verified(precision);
  if (result == nullptr) {
    if (precision == "fp32") return std::nullopt;
    return "was not verified";
  }
  if (!result->passed) {
    const std::string quality = !result->finite ? "gives numbers that are not finite"
                                : !result->psnr_db
                                    ? "is identical"
                                    : text("has ", with_one_digit(*result->psnr_db), " dB");
    return text(quality, ", its floor is ", result->floor_db, " dB");
  }
  if (result->automatic) return std::nullopt;
  return "loses quality on pictures unlike photographs";
}

void check_request(const Backend& backend, const Bundle& bundle, const std::string& precision) {
  const std::vector<std::string> available = backend.held_precisions(bundle);
  if (!contains(backend.precisions, precision)) {
    throw usage_error(backend.name, " does not run in ", precision, ": choose one of ",
                      joined(available, ", "));
  }
  if (!contains(available, precision)) {
    throw usage_error(bundle.path().string(), " has no ", file_precision(precision), " files for ",
                      backend.name, ": choose one of ", joined(available, ", "));
  }
  if (const auto reason = backend.unsupported(precision)) {
    throw unavailable_error(backend.name, " cannot run in ", precision, ": ", *reason);
  }
}

// The position in the order of "auto"; pairs that are not in it come last.
std::ptrdiff_t rank(const Candidate& candidate) {
  const json pair = {candidate.backend->name, candidate.precision};
  return std::find(automatic().begin(), automatic().end(), pair) - automatic().begin();
}

[[noreturn]] void throw_no_candidate(const Bundle& bundle, const std::vector<std::string>& reasons,
                                     const Among& among) {
  if (!reasons.empty()) {
    throw unavailable_error("no backend can run ", bundle.path().string(), ": ",
                            joined(reasons, "; "));
  }
  std::set<std::string> kinds;
  for (const Stage& stage : bundle.manifest().stages) {
    for (const Artifact& artifact : stage.artifacts) kinds.insert(artifact.kind);
  }
  throw bundle_error(
      bundle.path().string(), " has only ", joined({kinds.begin(), kinds.end()}, ", "),
      " files, which no backend can load; backends: ", joined(names_of(among), ", "));
}

}  // namespace

std::vector<std::string> automatic_precisions(const std::string& backend) {
  std::vector<std::string> precisions;
  for (const json& pair : automatic()) {
    if (pair[0] == backend) precisions.push_back(pair[1]);
  }
  return precisions;
}

std::vector<std::string> precisions_on_named_devices() {
  return automatic_rules().at("on_named_devices").get<std::vector<std::string>>();
}

const Backend& backend_named(const std::string& name, const Among& among) {
  for (const Backend* backend : among) {
    if (backend->name == name) return *backend;
  }
  throw usage_error("no backend '", name, "': choose one of auto, ", joined(names_of(among), ", "));
}

std::vector<Candidate> candidates(const Bundle& bundle, const std::string& precision,
                                  const Among& among) {
  std::vector<Candidate> result;
  std::vector<std::string> reasons;  // of the backends for which the bundle has the precision
  std::vector<std::string> others;
  std::vector<Failure> refusals;
  for (const Backend* backend : among) {
    const std::vector<std::string> available = backend->held_precisions(bundle);
    if (!backend->automatic || available.empty()) continue;
    if (const auto reason = backend->available()) {
      const bool has_precision = precision.empty() || contains(available, precision);
      (has_precision ? reasons : others).push_back(text(backend->name, ": ", *reason));
      continue;
    }
    try {
      for (std::string& usable : precisions_to_try(*backend, bundle, precision)) {
        result.push_back({backend, std::move(usable)});
      }
    } catch (const Failure& failure) {
      if (failure.status() == ELIR_ERROR_USAGE) {
        refusals.push_back(failure);
      } else {
        reasons.emplace_back(failure.what());
      }
    }
  }
  if (result.empty()) {
    if (!refusals.empty() && (precision.empty() || reasons.empty()))
      throw Failure(refusals.front());
    throw_no_candidate(bundle, reasons.empty() ? others : reasons, among);
  }
  std::stable_sort(result.begin(), result.end(),
                   [&](const Candidate& a, const Candidate& b) { return rank(a) < rank(b); });
  return result;
}

std::vector<const Backend*> detector_backends(const std::string& first, const Detector& detector,
                                              const Among& among) {
  std::vector<const Backend*> result{&backend_named(first, among)};
  for (const json& pair : automatic()) {
    const auto backend = std::find_if(among.begin(), among.end(),
                                      [&](const Backend* each) { return each->name == pair[0]; });
    if (backend == among.end() || std::find(result.begin(), result.end(), *backend) != result.end())
      continue;
    const auto& artifacts = detector.artifacts;
    if (std::any_of(artifacts.begin(), artifacts.end(),
                    [&](const Artifact& each) { return each.kind == (*backend)->kind; })) {
      result.push_back(*backend);
    }
  }
  return result;
}

std::vector<std::string> precisions_to_try(const Backend& backend, const Bundle& bundle,
                                           const std::string& precision) {
  const std::vector<std::string> available = backend.held_precisions(bundle);
  if (available.empty()) {
    throw bundle_error(bundle.path().string(), " has no files for the backend ", backend.name);
  }
  if (!precision.empty()) {
    check_request(backend, bundle, precision);
    return {precision};
  }
  std::vector<std::string> usable;
  std::vector<std::string> reasons;
  for (const std::string& each : available) {
    if (backend.unsupported(each)) continue;
    if (const auto reason = reason_not_automatic(bundle, each)) {
      reasons.push_back(text(each, " ", *reason));
    } else {
      usable.push_back(each);
    }
  }
  if (!usable.empty()) return usable;
  throw usage_error(bundle.path().string(), ": ", backend.name, " has no automatic precision (",
                    joined(reasons, "; "), "): name the one to run");
}

}  // namespace elir::core
