// How much of a restoration is kept: a mix of a picture and its restoration, in integers, by the
// formulas of elir_deploy/runtime/strength.py.
#pragma once

#include <cstdint>

#include "picture.hpp"
#include "pixels.hpp"

namespace elir::core {

class Strength {
 public:
  Strength() = default;

  // Throws a usage error unless it is from 0 to 1.
  explicit Strength(double strength);

  bool none() const { return weight_ == 0; }
  bool full() const { return weight_ == kFull; }

  // Mixes `before` into `after`, which is as large.
  void blend(ConstPixels before, Pixels after) const;

  // The same for a picture whose channels are in the order of `restored`. Where nothing is kept,
  // the values of `restored` are not read.
  void blend(const EnlargedPicture& picture, Pixels restored, Scratch& scratch) const;

 private:
  static constexpr std::uint32_t kFull = 256;
  std::uint32_t weight_ = kFull;
};

}  // namespace elir::core
