// Libraries pass a failing allocation on as an error of their own, in whose words it is still
// found.
#pragma once

#include <new>
#include <string_view>

namespace elir::core {

// Throws what it was, where that is what `reason` tells of.
inline void check_memory(std::string_view reason) {
  if (reason.find("std::bad_alloc") != std::string_view::npos) throw std::bad_alloc();
}

}  // namespace elir::core
