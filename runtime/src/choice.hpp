// The backends, and the choice among them: that of the Python runtime.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backend.hpp"

namespace elir::core {

// Every backend known, also those this library was built without, which are never available.
const std::vector<const Backend*>& backends();

// The names of those built in.
std::vector<std::string> built_in();

// One of `among`. Throws a usage error that lists those there are.
const Backend& backend_named(const std::string& name,
                             const std::vector<const Backend*>& among = backends());

struct Candidate {
  const Backend* backend;
  std::string precision;
};

// What "auto" tries of `among`, in order. `precision` is empty for any. Throws where there is
// nothing to try.
std::vector<Candidate> candidates(const Bundle& bundle, const std::string& precision,
                                  const std::vector<const Backend*>& among = backends());

// `precision`, or those that may run unasked, in the order `backend` likes them: what the bundle's
// verification calls automatic, and float32 also where it was not verified. Throws where there is
// none.
std::vector<std::string> precisions_to_try(const Backend& backend, const Bundle& bundle,
                                           const std::string& precision);

}  // namespace elir::core
