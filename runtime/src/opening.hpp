// Opens a bundle on a backend. If backend and precision are not both named, each candidate is
// checked by restoring the bundle's reference picture, and any failure leads to the next candidate.
// If both are named, a failure is an error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "choice.hpp"
#include "pixel_session.hpp"

namespace elir::core {

// Options for open_sessions.
struct OpeningOptions {
  std::string backend = "auto";
  std::string precision;  // empty for any
  bool check_accuracy = true;
  Setup setup;
  std::vector<const Backend*> among = backends();
};

using PixelSessions = std::vector<std::unique_ptr<PixelSession>>;

// An opened bundle.
struct Opened {
  std::string backend;
  std::string precision;
  PixelSessions sessions;  // one or more
};

// Throws a bundle error (the bundle is damaged or has no files for the backend), a usage error (no
// such backend or no automatic precision) or an unavailable error with the reason of each
// candidate.
Opened open_sessions(const Bundle& bundle, const OpeningOptions& options);

}  // namespace elir::core
