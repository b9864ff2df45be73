// The golden vectors of tests/golden/make.py. Apart, since JSON takes long to compile.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace elir::test {

// In the order of the file, which messages quote.
using Golden = nlohmann::ordered_json;

const Golden& golden(const std::string& name);

}  // namespace elir::test
