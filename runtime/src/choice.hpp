// Chooses backend and precision, as the Python runtime does.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"

namespace elir::core {

// All backends, including those this library was built without, which are never available.
const std::vector<const Backend*>& backends();

// The backend whose devices have names.
constexpr const char* kNamesDevices = "openvino";

// Names of the backends that this library was built with.
std::vector<std::string> built_in();

// The backend of this name in `among`. Throws a usage error.
const Backend& backend_named(const std::string& name,
                             const std::vector<const Backend*>& among = backends());

struct Candidate {
  const Backend* backend;
  std::string precision;
};

// The candidates of "auto", best first. `precision` may be empty for any. Throws if there are none.
std::vector<Candidate> candidates(const Bundle& bundle, const std::string& precision,
                                  const std::vector<const Backend*>& among = backends());

// The backends that may run a face detector: `first`, then as "auto" prefers them.
std::vector<const Backend*> detector_backends(
    const std::string& first, const Detector& detector,
    const std::vector<const Backend*>& among = backends());

// `precision` or, if that is empty, the automatic precisions in the backend's order: those marked
// automatic by the bundle's verification, and fp32 if it was not verified. Throws if there are
// none.
std::vector<std::string> precisions_to_try(const Backend& backend, const Bundle& bundle,
                                           const std::string& precision);

}  // namespace elir::core
