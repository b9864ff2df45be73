// Converts between 8-bit pixels, (side, side, 3) without padding, and tensors of the same image.
#pragma once

#include <cstdint>

#include "manifest.hpp"

namespace elir::core {

// Whether the tensor contains pixels unchanged.
bool holds_pixels(const TensorSpec& spec);

// Floats are pixels / 255.
void to_tensor(const std::uint8_t* pixels, std::size_t side, const TensorSpec& spec, void* tensor);

// The same as in the graph of an 8-bit bundle: floats are clipped to [0, 1], NaN becomes 0, times
// 255, rounded half to even.
void to_pixels(const TensorSpec& spec, const void* tensor, std::size_t side, std::uint8_t* pixels);

}  // namespace elir::core
