#include "opening.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "embedded.hpp"
#include "error.hpp"
#include "png.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

constexpr std::uint8_t kGrey = 128;

double psnr(const std::vector<std::uint8_t>& expected, ConstPixels actual) {
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{1} * actual.data[i] - expected[i];
    error += difference * difference;
  }
  error /= static_cast<double>(expected.size());
  return error > 0 ? 10 * std::log10(255 * 255 / error) : std::numeric_limits<double>::infinity();
}

// One run on the bundle's reference picture, with the noise that belongs to it.
//
// It detects INT8 kernels that saturate or err on processors without the newest instructions, and
// missing memory and libraries, which often show only in a run.
class AccuracyCheck {
 public:
  // Reads the picture. Throws a bundle error if its files are damaged.
  explicit AccuracyCheck(const Bundle& bundle) : manifest_(bundle.manifest()) {
    if (manifest_.seed) noise_.emplace(*manifest_.seed, manifest_.sigma_s);
    const Shape& shape = manifest_.shapes.front();
    const auto width = static_cast<std::size_t>(shape.padded_width);
    const auto height = static_cast<std::size_t>(shape.padded_height);
    if (manifest_.references.empty() || !reads_png()) {
      image_.assign(kChannels * width * height, kGrey);
      return;
    }
    const Reference& reference = manifest_.references.front();
    image_ = read_png(bundle.checked_file(reference.input), width, height);
    expected_ = read_png(bundle.checked_file(reference.output), width, height);
  }

  // Runs the session. Returns why its result is wrong, or none. Throws if the run fails.
  std::optional<std::string> error(PixelSession& session, const std::string& precision) const {
    session.select(manifest_.shapes.front(), 1);
    const Pixels input = session.input(0);
    copy(packed(image_.data(), input.width, input.height), input);
    session.fill_noise(0, noise_);
    session.run();
    const Pixels output = session.output(0);
    const Verification* verified = manifest_.verified(precision);
    if (expected_.empty() || verified == nullptr) return std::nullopt;
    const double reached = psnr(expected_, output);
    // How far a backend may stay below the verified PSNR, and a PSNR that is always sufficient.
    static const auto limits = nlohmann::json::parse(kAutomatic);
    const double verified_db =
        std::min(limits.at("sufficient_db").get<double>(),
                 verified->psnr_db.value_or(std::numeric_limits<double>::infinity()));
    if (reached >= verified_db - limits.at("tolerance_db").get<double>()) return std::nullopt;
    return text("wrong on this machine: ", with_one_digit(reached), " dB on the bundle's picture ",
                manifest_.references.front().name, ", expected ", with_one_digit(verified_db));
  }

 private:
  const Manifest& manifest_;
  std::optional<NoiseField> noise_;
  std::vector<std::uint8_t> image_;
  std::vector<std::uint8_t> expected_;  // empty: nothing to compare with
};

// The errors of the candidates that failed.
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

  std::string describe() const {
    std::vector<std::string> parts;
    for (const auto& [reason, names] : failed_) parts.push_back(text(names, ": ", reason));
    return joined(parts, "; ");
  }

  // The error to throw if all candidates failed.
  Failure error(const Bundle& bundle) const {
    if (status_ == ELIR_ERROR_BUNDLE || status_ == ELIR_ERROR_MEMORY) return {status_, describe()};
    return unavailable_error("no backend can run ", bundle.path().string(), ": ", describe());
  }

 private:
  std::vector<std::pair<std::string, std::string>> failed_;  // reason, candidates
  elir_status status_ = ELIR_ERROR_UNAVAILABLE;              // of all, if they have the same
};

PixelSessions start(const Bundle& bundle, const Backend& backend, const std::string& precision,
                    const Setup& setup) {
  PixelSessions sessions;
  for (auto& session : backend.open(bundle, precision, setup)) {
    sessions.push_back(std::make_unique<PixelSession>(bundle.manifest(), std::move(session)));
  }
  return sessions;
}

void warn_if_not_checked(const Bundle& bundle, const std::string& backend,
                         const std::string& precision, const Log& log) {
  const Manifest& manifest = bundle.manifest();
  if (reads_png() || precision == "fp32" || manifest.references.empty()) return;
  log.warn(text("the accuracy of ", precision, " on ", backend,
                " was not checked: this libelir was built without PNG"));
}

// A wrong result is only a warning here.
Opened open_named(const Bundle& bundle, const Backend& backend, const OpeningOptions& options) {
  const std::string& precision = options.precision;
  Opened opened{backend.name, precision, start(bundle, backend, precision, options.setup)};
  const Manifest& manifest = bundle.manifest();
  if (!options.check_accuracy || precision == "fp32" || manifest.verified(precision) == nullptr ||
      manifest.references.empty()) {
    return opened;
  }
  warn_if_not_checked(bundle, backend.name, precision, options.setup.log);
  if (const auto error = AccuracyCheck(bundle).error(*opened.sessions.front(), precision)) {
    options.setup.log.warn(
        text(backend.name, " in ", precision, " is ", *error, ": choose another"));
  }
  return opened;
}

Opened open_first_working(const Bundle& bundle, const std::vector<Candidate>& candidates,
                          const OpeningOptions& options) {
  std::optional<AccuracyCheck> check;
  if (options.check_accuracy) check.emplace(bundle);
  Failures failures;
  for (const Candidate& candidate : candidates) {
    const std::string& backend = candidate.backend->name;
    const std::string name = text(backend, " in ", candidate.precision);
    try {
      PixelSessions sessions =
          start(bundle, *candidate.backend, candidate.precision, options.setup);
      if (check) {
        if (const auto error = check->error(*sessions.front(), candidate.precision)) {
          failures.add(name, ELIR_ERROR_UNAVAILABLE, *error);
          continue;
        }
        warn_if_not_checked(bundle, backend, candidate.precision, options.setup.log);
      }
      if (!failures.empty()) options.setup.log.warn(text(failures.describe(), "; using ", name));
      return {backend, candidate.precision, std::move(sessions)};
    } catch (const Failure& failure) {
      failures.add(name, failure.status(), failure.what());
    } catch (const std::bad_alloc&) {
      failures.add(name, ELIR_ERROR_MEMORY, "out of memory");
    } catch (const std::exception& error) {  // a library may throw anything
      failures.add(name, ELIR_ERROR_UNAVAILABLE, one_line(error.what()));
    }
  }
  throw failures.error(bundle);
}

}  // namespace

Opened open_sessions(const Bundle& bundle, const OpeningOptions& options) {
  const std::string& device = options.setup.device_name;
  if (options.backend == "auto" && device.empty()) {
    return open_first_working(bundle, candidates(bundle, options.precision, options.among),
                              options);
  }
  const Backend& named =
      backend_named(options.backend == "auto" ? kNamesDevices : options.backend, options.among);
  const std::unique_ptr<const Backend> elsewhere =
      device.empty() ? nullptr : named.on_device(device);
  const Backend& chosen = elsewhere ? *elsewhere : named;
  if (const auto reason = chosen.available()) {
    throw unavailable_error(chosen.name, " cannot be used: ", *reason);
  }
  std::vector<Candidate> usable;
  for (std::string& precision : precisions_to_try(chosen, bundle, options.precision)) {
    usable.push_back({&chosen, std::move(precision)});
  }
  if (!options.precision.empty()) return open_named(bundle, chosen, options);
  return open_first_working(bundle, usable, options);
}

}  // namespace elir::core
