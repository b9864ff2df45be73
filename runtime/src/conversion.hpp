// Converts between the 8-bit pixels of an image, without padding between rows, and a tensor of it.
#pragma once

#include <cstdint>

#include "manifest.hpp"

namespace elir::core {

// Whether the tensor contains pixels unchanged.
bool holds_pixels(const TensorSpec& spec);

// Converts `count` pixels. Floats are pixels / 255.
void to_tensor(const std::uint8_t* pixels, std::size_t count, const TensorSpec& spec, void* tensor);

// The same as in the graph of an 8-bit bundle: floats are clipped to [0, 1], NaN becomes 0, times
// 255, rounded half to even.
void to_pixels(const TensorSpec& spec, const void* tensor, std::size_t count, std::uint8_t* pixels);

}  // namespace elir::core
