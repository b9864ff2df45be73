#include "tiling.hpp"

#include <algorithm>
#include <cstdint>

namespace elir::core {
namespace {

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

Spans::Spans(std::size_t length, std::size_t tile, std::size_t step, std::size_t overlap)
    : length_(length), tile_(tile), step_(step), overlap_(overlap), count_(1) {
  if (length <= tile) return;
  const auto steps = [&](std::size_t pixels) { return (pixels + step - 1) / step; };
  const std::size_t least = steps(overlap);  // these three in steps
  const std::size_t advance = tile / step - least;
  count_ = (steps(length) - least + advance - 1) / advance;
}

Span Spans::operator[](std::size_t i) const {
  return {start_of(i), begin_of(i), begin_of(i + 1), i == 0 ? 0 : overlap_};
}

std::size_t Spans::start_of(std::size_t i) const {
  if (count_ == 1) return 0;
  const std::size_t free_steps = (length_ - tile_ + step_ - 1) / step_;
  return step_ * (i * free_steps / (count_ - 1));
}

// Begin of tile i, in the middle of its overlap with the previous tile.
std::size_t Spans::begin_of(std::size_t i) const {
  if (i == 0) return 0;
  if (i == count_) return length_;
  return start_of(i) + (start_of(i - 1) + tile_ - start_of(i) - overlap_) / 2;
}

std::size_t mirrored(std::size_t index, std::size_t length) {
  const std::size_t m = index % (2 * length);
  return m < length ? m : 2 * length - 1 - m;
}

void mirror(Pixels whole, std::size_t width, std::size_t height) {
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = width; x < whole.width; ++x) {
      std::copy_n(whole.at(mirrored(x, width), y), kChannels, whole.at(x, y));
    }
  }
  for (std::size_t y = height; y < whole.height; ++y) {
    std::copy_n(whole.row(mirrored(y, height)), kChannels * whole.width, whole.row(y));
  }
}

void cut_tile(const EnlargedPicture& picture, std::size_t left, std::size_t top, Pixels tile,
              Scratch& scratch) {
  const std::size_t width = std::min(tile.width, picture.width() - left);
  const std::size_t height = std::min(tile.height, picture.height() - top);
  picture.block(left, top, tile.part(0, 0, width, height), scratch);
  mirror(tile, width, height);
}

void Blending::add(Pixels tile) {
  const Span row = rows_[next_ / columns_.size()];
  const Span column = columns_[next_ % columns_.size()];
  ++next_;
  // The previous tile, where it fades out.
  const std::size_t across = columns_.overlap();
  scratch_.ramp.resize(kChannels * across * tile.height);
  const Pixels before = packed(scratch_.ramp.data(), across, tile.height);
  const std::size_t left = column.begin - column.start;
  const std::size_t right = column.end - column.start;
  if (column.ramp > 0) blend_columns(before, tile.part(left, 0, across, tile.height));
  if (column.end < output_.width) copy(tile.part(right, 0, across, tile.height), before);
  // Includes the ramp with the next row of tiles, which is blended in place.
  const std::size_t bottom = std::min(row.end + rows_.overlap(), output_.height);
  const Pixels ready = tile.part(left, row.begin - row.start, right - left, bottom - row.begin);
  const Pixels place = output_.part(column.begin, row.begin, ready.width, ready.height);
  blend_rows(place.part(0, 0, place.width, row.ramp), ready.part(0, 0, ready.width, row.ramp));
  copy(ready, place);
}

}  // namespace elir::core
