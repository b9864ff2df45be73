#include "opening.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "error.hpp"
#include "png.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

// What a backend's rounding may add to a precision's verified error before it counts as wrong, and
// a quality that is enough whatever was verified.
constexpr double kToleratedDb = 3;
constexpr double kEnoughDb = 50;
constexpr std::uint8_t kGrey = 128;

double psnr(const std::vector<std::uint8_t>& expected, ConstPixels made) {
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{1} * made.data[i] - expected[i];
    error += difference * difference;
  }
  error /= static_cast<double>(expected.size());
  return error > 0 ? 10 * std::log10(255 * 255 / error) : std::numeric_limits<double>::infinity();
}

// One run of a picture whose result is known.
//
// Processors and libraries differ most where precision is low: INT8 kernels for processors without
// the newest instructions saturate or err. And what a device lacks often shows only when something
// runs: memory, or a library that is loaded late.
class Trial {
 public:
  // Reads the picture. Throws a bundle error where its files are damaged.
  explicit Trial(const Bundle& bundle) : manifest_(bundle.manifest()), side_(manifest_.side()) {
    if (manifest_.references.empty() || !reads_png()) {
      image_.assign(3 * side_ * side_, kGrey);
      return;
    }
    const Reference& reference = manifest_.references.front();
    image_ = read_png(bundle.checked_file(reference.input), side_);
    expected_ = read_png(bundle.checked_file(reference.output), side_);
  }

  // Why the result is not what the bundle's verification saw. Throws where the run fails.
  std::optional<std::string> wrong(Runner& runner, const std::string& precision) const {
    copy(packed(image_.data(), side_, side_), runner.input());
    const Pixels made = runner.run();
    const Verification* verified = manifest_.verified(precision);
    if (expected_.empty() || verified == nullptr) return std::nullopt;
    const double reached = psnr(expected_, made);
    const double wanted =
        std::min(kEnoughDb, verified->psnr_db.value_or(std::numeric_limits<double>::infinity()));
    if (reached >= wanted - kToleratedDb) return std::nullopt;
    return text("wrong on this machine: ", with_one_digit(reached), " dB on the bundle's picture ",
                manifest_.references.front().name, ", verified with ", with_one_digit(wanted));
  }

 private:
  const Manifest& manifest_;
  const std::size_t side_;
  std::vector<std::uint8_t> image_;
  std::vector<std::uint8_t> expected_;  // empty where there is nothing to compare with
};

// What went wrong with which candidates.
class Failures {
 public:
  void add(const std::string& candidate, elir_status status, const std::string& reason) {
    status_ = failed_.empty() || status == status_ ? status : ELIR_ERROR_UNAVAILABLE;
    const auto same = std::find_if(failed_.begin(), failed_.end(),
                                   [&](const auto& other) { return other.first == reason; });
    if (same == failed_.end()) {
      failed_.emplace_back(reason, candidate);
    } else {
      same->second += ", " + candidate;
    }
  }

  bool empty() const { return failed_.empty(); }

  std::string told() const {
    std::vector<std::string> parts;
    for (const auto& [reason, who] : failed_) parts.push_back(text(who, ": ", reason));
    return joined(parts, "; ");
  }

  // For where there is no other candidate.
  Failure error(const Bundle& bundle) const {
    if (status_ == ELIR_ERROR_BUNDLE || status_ == ELIR_ERROR_MEMORY) return {status_, told()};
    return unavailable_error("nothing here can run ", bundle.path().string(), ": ", told());
  }

 private:
  std::vector<std::pair<std::string, std::string>> failed_;  // reason, and who
  elir_status status_ = ELIR_ERROR_UNAVAILABLE;              // what all of them were; else this
};

Runners start(const Bundle& bundle, const Backend& backend, const std::string& precision,
              const Setup& setup) {
  Runners made;
  for (auto& session : backend.open(bundle, precision, setup)) {
    made.push_back(std::make_unique<Runner>(bundle.manifest(), std::move(session)));
  }
  return made;
}

void warn_of_no_trial(const Bundle& bundle, const std::string& backend,
                      const std::string& precision, const Log& log) {
  const Manifest& manifest = bundle.manifest();
  if (reads_png() || precision == "fp32" || manifest.references.empty()) return;
  log.warn(text("this libelir was built without PNG, so ", precision, " on ", backend,
                " was not tried on the bundle's picture"));
}

// A wrong picture is no more than a warning here.
Opened as_named(const Bundle& bundle, const Backend& backend, const OpeningOptions& options) {
  const std::string& precision = options.precision;
  Opened opened{backend.name, precision, start(bundle, backend, precision, options.setup)};
  const Manifest& manifest = bundle.manifest();
  if (!options.trial || precision == "fp32" || manifest.verified(precision) == nullptr ||
      manifest.references.empty()) {
    return opened;
  }
  warn_of_no_trial(bundle, backend.name, precision, options.setup.log);
  if (const auto wrong = Trial(bundle).wrong(*opened.runners.front(), precision)) {
    options.setup.log.warn(
        text(backend.name, " in ", precision, " is ", *wrong, ": choose another"));
  }
  return opened;
}

Opened first_that_works(const Bundle& bundle, const std::vector<Candidate>& candidates,
                        const OpeningOptions& options) {
  std::optional<Trial> trial;
  if (options.trial) trial.emplace(bundle);
  Failures failures;
  for (const Candidate& candidate : candidates) {
    const std::string& backend = candidate.backend->name;
    const std::string who = text(backend, " in ", candidate.precision);
    try {
      Runners runners = start(bundle, *candidate.backend, candidate.precision, options.setup);
      if (trial) {
        if (const auto wrong = trial->wrong(*runners.front(), candidate.precision)) {
          failures.add(who, ELIR_ERROR_UNAVAILABLE, *wrong);
          continue;
        }
        warn_of_no_trial(bundle, backend, candidate.precision, options.setup.log);
      }
      if (!failures.empty()) options.setup.log.warn(text(failures.told(), "; using ", who));
      return {backend, candidate.precision, std::move(runners)};
    } catch (const Failure& failure) {
      failures.add(who, failure.status(), failure.what());
    } catch (const std::bad_alloc&) {
      failures.add(who, ELIR_ERROR_MEMORY, "out of memory");
    } catch (const std::exception& error) {  // a library may throw anything
      failures.add(who, ELIR_ERROR_UNAVAILABLE, one_line(error.what()));
    }
  }
  throw failures.error(bundle);
}

}  // namespace

Opened open_runners(const Bundle& bundle, const OpeningOptions& options) {
  if (options.backend == "auto") {
    return first_that_works(bundle, candidates(bundle, options.precision, options.among), options);
  }
  const Backend& chosen = backend_named(options.backend, options.among);
  if (const auto reason = chosen.available()) {
    throw unavailable_error(chosen.name, " cannot be used: ", *reason);
  }
  std::vector<Candidate> usable;
  for (std::string& precision : precisions_to_try(chosen, bundle, options.precision)) {
    usable.push_back({&chosen, std::move(precision)});
  }
  if (!options.precision.empty()) return as_named(bundle, chosen, options);
  return first_that_works(bundle, usable, options);
}

}  // namespace elir::core
