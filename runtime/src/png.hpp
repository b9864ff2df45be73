// Reading the bundle's own pictures.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace elir::core {

// Whether this library can read PNG files at all.
bool reads_png();

// An 8-bit RGB picture of `side` x `side`, rows without padding. Throws a bundle error where the
// file is another or damaged.
std::vector<std::uint8_t> read_png(const std::filesystem::path& path, std::size_t side);

}  // namespace elir::core
