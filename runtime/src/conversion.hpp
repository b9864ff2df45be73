// Between 8-bit pixels, (side, side, 3) without gaps, and a tensor of the same image.
#pragma once

#include <cstdint>

#include "manifest.hpp"

namespace elir::core {

// Whether the tensor holds pixels as they are.
bool holds_pixels(const TensorSpec& spec);

// Floats are pixels / 255.
void to_tensor(const std::uint8_t* pixels, std::size_t side, const TensorSpec& spec, void* tensor);

// As the graph of an 8-bit bundle does it: floats are clipped to [0, 1], NaN to 0, times 255, half
// to even.
void to_pixels(const TensorSpec& spec, const void* tensor, std::size_t side, std::uint8_t* pixels);

}  // namespace elir::core
