#include "picture.hpp"

#include <algorithm>

namespace elir::core {

void EnlargedPicture::block(std::size_t left, std::size_t top, Pixels block,
                            Scratch& scratch) const {
  if (factor_ == 1) {
    copy(image_.part(left, top, block.width, block.height), block);
  } else if (kernel_ == Kernel::nearest) {
    for (std::size_t y = 0; y < block.height; ++y) {
      for (std::size_t x = 0; x < block.width; ++x) {
        const std::uint8_t* source = image_.at((left + x) / factor_, (top + y) / factor_);
        std::copy_n(source, kChannels, block.at(x, y));
      }
    }
  } else {
    // The factor is a power of two, so a pixel's weights are the same wherever it is computed.
    scratch.across.compute(image_.width, width(), left, block.width);
    scratch.down.compute(image_.height, height(), top, block.height);
    const std::size_t first = scratch.down.first();
    const std::size_t rows = scratch.down.last() - first;
    scratch.narrow.resize(kChannels * block.width * rows);
    const Pixels wide = packed(scratch.narrow.data(), block.width, rows);
    resample_rows(image_.part(0, first, image_.width, rows), wide, scratch.across);
    resample_columns(wide, block, scratch.down, scratch.sums, first);
  }
  if (bgr_) swap_channels(block);
}

void resize_to(const EnlargedPicture& picture, Pixels image, Scratch& scratch) {
  scratch.columns.resize(kChannels * image.width * picture.height());
  scratch.whole.compute(picture.width(), image.width);
  const Pixels narrow = packed(scratch.columns.data(), image.width, picture.height());
  for_bands(picture, scratch, [&](std::size_t top, ConstPixels band) {
    resample_rows(band, narrow.part(0, top, image.width, band.height), scratch.whole);
  });
  scratch.whole.compute(picture.height(), image.height);
  resample_columns(narrow, image, scratch.whole, scratch.sums);
}

void resize_into(ConstPixels image, Pixels output, Scratch& scratch) {
  scratch.narrow.resize(kChannels * output.width * image.height);
  const Pixels wide = packed(scratch.narrow.data(), output.width, image.height);
  scratch.across.compute(image.width, output.width);
  resample_rows(image, wide, scratch.across);
  scratch.down.compute(image.height, output.height);
  resample_columns(wide, output, scratch.down, scratch.sums);
}

}  // namespace elir::core
