// The graph of a bundle's face detector, for the backends that run it.
#pragma once

#include <filesystem>

#include "bundle.hpp"

namespace elir::core {

// Throws a bundle error if there is none.
const Detector& detector_of(const Bundle& bundle);

// The detector's ONNX file, whose hash and content are checked. Throws a bundle error.
std::filesystem::path detector_file(const Bundle& bundle);

// Compares what a library read with the manifest; shapes of outputs are checked when decoded.
// Throws a bundle error.
void check_detector_ends(const std::filesystem::path& path, const Detector& detector,
                         const GraphEnds& ends);

}  // namespace elir::core
