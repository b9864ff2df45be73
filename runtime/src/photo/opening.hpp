// Opens a bundle's face detector on the first backend that runs it. See
// elir_deploy/photo/opening.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../choice.hpp"

namespace elir::core {

// The detector on the backend `first`, or else on another, with a warning. It has run once, and
// takes every picture whose longer side was shrunk to `long_side`. Throws a bundle error if the
// detector's ONNX file is damaged, and an unavailable error if no backend runs it.
std::unique_ptr<DetectorNetwork> open_detector(
    const std::string& first, const Bundle& bundle, const Setup& setup, std::int64_t long_side,
    const std::vector<const Backend*>& among = backends());

}  // namespace elir::core
