// The golden vectors of tests/golden/make.py. Separate, since JSON takes long to compile.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace elir::test {

// Keeps the order of the file.
using Golden = nlohmann::ordered_json;

const Golden& golden(const std::string& name);

}  // namespace elir::test
