// Rules for engines of TensorRT and TensorRT-RTX that need neither of the two libraries.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../manifest.hpp"

namespace elir::core {

using Release = std::array<int, 3>;  // such as 10.3.0

// Release of a version such as "10.3.0.26".
Release release_of(const std::string& version);

// Release of a number from getInferLibVersion.
Release release_of(int number);

// Whether the release `installed` runs version-compatible engines of the release `engine`.
bool is_compatible(const Release& engine, const Release& installed);

// Whether an engine was built for a compute capability, such as "sm86".
bool is_built_for(const Artifact& artifact, const std::string& capability);

// Whether an engine runs on a compute capability: that it was built for, or another.
bool runs_on(const Artifact& artifact, const std::string& capability);

// A library's log messages in one line, without duplicates and source locations.
std::string summarize(const std::vector<std::string>& messages);

// Whether log messages are about the device and not about the file.
bool is_device_error(const std::vector<std::string>& messages);

}  // namespace elir::core
