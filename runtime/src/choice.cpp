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

// What "auto" prefers, best first: the Python runtime's order, which says why.
const json& automatic() {
  static const json pairs = json::parse(kAutomatic);
  return pairs;
}

bool contains(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

using Among = std::vector<const Backend*>;

std::vector<std::string> names_of(const Among& among) {
  std::vector<std::string> names;
  for (const Backend* backend : among) names.push_back(backend->name);
  return names;
}

// Why `precision` runs only where somebody asks for it; none: it may run unasked.
std::optional<std::string> only_asked(const Bundle& bundle, const std::string& precision) {
  const Verification* found = bundle.manifest().verified(precision);
  if (found == nullptr) {
    if (precision == "fp32") return std::nullopt;
    return "was not verified";
  }
  if (!found->passed) {
    const std::string reached = !found->finite ? "gives numbers that are not finite"
                                : found->psnr_db
                                    ? text("has ", with_one_digit(*found->psnr_db), " dB")
                                    : "is identical";
    return text(reached, ", its floor is ", found->floor_db, " dB");
  }
  if (found->automatic) return std::nullopt;
  return "loses much on pictures unlike photographs";
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

// The place in the table; behind it where the pair is in none.
std::ptrdiff_t rank(const Candidate& candidate) {
  const json pair = {candidate.backend->name, candidate.precision};
  return std::find(automatic().begin(), automatic().end(), pair) - automatic().begin();
}

[[noreturn]] void refuse(const Bundle& bundle, const std::vector<std::string>& reasons,
                         const Among& among) {
  if (!reasons.empty()) {
    throw unavailable_error("nothing here can run ", bundle.path().string(), ": ",
                            joined(reasons, "; "));
  }
  std::set<std::string> kinds;
  for (const Stage& stage : bundle.manifest().stages) {
    for (const Artifact& artifact : stage.artifacts) kinds.insert(artifact.kind);
  }
  throw bundle_error(
      bundle.path().string(), " holds only ", joined({kinds.begin(), kinds.end()}, ", "),
      " files that no backend here can load; backends: ", joined(names_of(among), ", "));
}

}  // namespace

std::vector<std::string> automatic_precisions(const std::string& backend) {
  std::vector<std::string> precisions;
  for (const json& pair : automatic()) {
    if (pair[0] == backend) precisions.push_back(pair[1]);
  }
  return precisions;
}

const Backend& backend_named(const std::string& name, const Among& among) {
  for (const Backend* backend : among) {
    if (backend->name == name) return *backend;
  }
  throw usage_error("no backend '", name, "': choose one of auto, ", joined(names_of(among), ", "));
}

std::vector<Candidate> candidates(const Bundle& bundle, const std::string& precision,
                                  const Among& among) {
  std::vector<Candidate> found;
  std::vector<std::string> reasons;  // of those that hold what is wanted
  std::vector<std::string> others;
  std::vector<Failure> refusals;
  for (const Backend* backend : among) {
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
    refuse(bundle, reasons.empty() ? others : reasons, among);
  }
  std::stable_sort(found.begin(), found.end(),
                   [&](const Candidate& a, const Candidate& b) { return rank(a) < rank(b); });
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
  std::vector<std::string> usable;
  std::vector<std::string> reasons;
  for (const std::string& each : held) {
    if (backend.unsupported(each)) continue;
    if (const auto reason = only_asked(bundle, each)) {
      reasons.push_back(text(each, " ", *reason));
    } else {
      usable.push_back(each);
    }
  }
  if (!usable.empty()) return usable;
  throw usage_error(bundle.path().string(), ": ", backend.name,
                    " has no precision that may run unasked (", joined(reasons, "; "),
                    "): name the one to run");
}

}  // namespace elir::core
