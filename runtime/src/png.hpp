// Reads a bundle's reference pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace elir::core {

// Whether this library was built with PNG.
bool reads_png();

// The 8-bit RGB pixels of a picture of this size, rows without padding. Throws a bundle error if
// the file is damaged or has another size.
std::vector<std::uint8_t> read_png(const std::filesystem::path& path, std::size_t width,
                                   std::size_t height);

}  // namespace elir::core
