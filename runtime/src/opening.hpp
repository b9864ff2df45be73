// Opening a bundle: the backend and precision that run it, tried before they are taken. What is not
// named is chosen by trying: each candidate runs the bundle's own picture once, and whatever goes
// wrong with it leads to the next. What is named runs, or its error is thrown.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "choice.hpp"
#include "runner.hpp"

namespace elir::core {

// Which backend and precision are wanted, and how they are set up.
struct OpeningOptions {
  std::string backend = "auto";
  std::string precision;  // empty for any
  bool trial = true;      // try on the bundle's picture
  Setup setup;
  std::vector<const Backend*> among = backends();  // those there are
};

using Runners = std::vector<std::unique_ptr<Runner>>;

// What runs a bundle.
struct Opened {
  std::string backend;
  std::string precision;
  Runners runners;  // one or more
};

// Throws a bundle error (the bundle is damaged, or holds nothing for the backend), a usage error
// (no backend of that name, or nothing that it may run) or an unavailable error with the reason of
// each candidate.
Opened open_runners(const Bundle& bundle, const OpeningOptions& options);

}  // namespace elir::core
