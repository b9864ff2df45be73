#include "tiling.hpp"

#include <algorithm>
#include <cstdint>

namespace elir::core {
namespace {

std::size_t start_of(std::size_t length, std::size_t tile, std::size_t count, std::size_t i) {
  return i * (length - tile) / (count - 1);
}

// Begin of tile i, in the middle of its overlap with the previous tile.
std::size_t begin_of(std::size_t length, std::size_t tile, std::size_t count, std::size_t i) {
  if (i == 0) return 0;
  if (i == count) return length;
  const std::size_t start = start_of(length, tile, count, i);
  const std::size_t before = start_of(length, tile, count, i - 1);
  return start + (before + tile - start - overlap(tile)) / 2;
}

// Blends `before` into `after` at step k of a ramp of `width`.
void blend(const std::uint8_t* before, std::uint8_t* after, std::size_t bytes, std::uint32_t k,
           std::uint32_t width) {
  const std::uint32_t weight = 2 * k + 1;
  for (std::size_t i = 0; i < bytes; ++i) {
    const std::uint32_t mixed = before[i] * (2 * width - weight) + after[i] * weight + width;
    after[i] = static_cast<std::uint8_t>(mixed / (2 * width));
  }
}

void blend_columns(ConstPixels before, Pixels after) {
  const auto width = static_cast<std::uint32_t>(after.width);
  for (std::size_t y = 0; y < after.height; ++y) {
    for (std::uint32_t k = 0; k < width; ++k)
      blend(before.at(k, y), after.at(k, y), kChannels, k, width);
  }
}

void blend_rows(ConstPixels before, Pixels after) {
  const auto width = static_cast<std::uint32_t>(after.height);
  for (std::uint32_t k = 0; k < width; ++k) {
    blend(before.row(k), after.row(k), kChannels * after.width, k, width);
  }
}

}  // namespace

std::size_t span_count(std::size_t length, std::size_t tile) {
  if (length <= tile) return 1;
  const std::size_t width = overlap(tile);
  return (length - width + tile - width - 1) / (tile - width);
}

Span span(std::size_t length, std::size_t tile, std::size_t i) {
  if (length <= tile) return {0, 0, length, 0};
  const std::size_t count = span_count(length, tile);
  return {start_of(length, tile, count, i), begin_of(length, tile, count, i),
          begin_of(length, tile, count, i + 1), i == 0 ? 0 : overlap(tile)};
}

std::size_t mirrored(std::size_t index, std::size_t length) {
  const std::size_t m = index % (2 * length);
  return m < length ? m : 2 * length - 1 - m;
}

void cut_tile(const EnlargedPicture& picture, std::size_t left, std::size_t top, Pixels square,
              Scratch& scratch) {
  const std::size_t width = std::min(square.width, picture.width());
  const std::size_t height = std::min(square.height, picture.height());
  picture.block(left, top, square.part(0, 0, width, height), scratch);
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = width; x < square.width; ++x) {
      std::copy_n(square.at(mirrored(x, width), y), kChannels, square.at(x, y));
    }
  }
  for (std::size_t y = height; y < square.height; ++y) {
    std::copy_n(square.row(mirrored(y, height)), kChannels * square.width, square.row(y));
  }
}

void run_tiled(const EnlargedPicture& picture, Pixels output, Pixels input,
               const std::function<Pixels()>& run, Scratch& scratch) {
  const std::size_t tile = input.width;
  const std::size_t ramp = overlap(tile);
  scratch.ramp.resize(kChannels * ramp * tile);
  const Pixels left_ramp = packed(scratch.ramp.data(), ramp, tile);  // right ramp of the left tile
  const std::size_t rows = span_count(output.height, tile);
  const std::size_t columns = span_count(output.width, tile);
  for (std::size_t i = 0; i < rows; ++i) {
    const Span row = span(output.height, tile, i);
    // Includes the ramp with the next row of tiles, which is blended in place.
    const std::size_t bottom = std::min(row.end + ramp, output.height);
    for (std::size_t j = 0; j < columns; ++j) {
      const Span column = span(output.width, tile, j);
      cut_tile(picture, column.start, row.start, input, scratch);
      const Pixels result = run();
      const std::size_t left = column.begin - column.start;
      const std::size_t right = column.end - column.start;
      if (column.ramp > 0) blend_columns(left_ramp, result.part(left, 0, ramp, tile));
      if (column.end < output.width) copy(result.part(right, 0, ramp, tile), left_ramp);
      const Pixels ready =
          result.part(left, row.begin - row.start, right - left, bottom - row.begin);
      const Pixels place = output.part(column.begin, row.begin, ready.width, ready.height);
      if (row.ramp > 0) {
        blend_rows(place.part(0, 0, place.width, ramp), ready.part(0, 0, ready.width, ramp));
      }
      copy(ready, place);
    }
  }
}

}  // namespace elir::core
