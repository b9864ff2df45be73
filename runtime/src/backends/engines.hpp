// What engines of TensorRT and TensorRT-RTX have in common, and whether one fits: all that needs
// neither of the two libraries.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../manifest.hpp"

namespace elir::core {

using Release = std::array<int, 3>;  // such as 10.3.0

// Of a version such as "10.3.0.26".
Release release_of(const std::string& version);

// Of the number that getInferLibVersion gives.
Release release_of(int number);

// Whether version-compatible engines of `made` run under `here`.
bool in_reach(const Release& made, const Release& here);

// Whether an engine was made for GPUs of a compute capability, such as "sm86".
bool made_for(const Artifact& artifact, const std::string& device);

// Whether it was made for them, or runs on them all the same.
bool is_for(const Artifact& artifact, const std::string& device);

// What a library logged: each reason once, without the places in its source that stand around it.
std::string brief(const std::vector<std::string>& reasons);

// Where it complains of the device, and not of the file.
bool of_the_device(const std::vector<std::string>& reasons);

}  // namespace elir::core
