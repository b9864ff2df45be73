// Integers of 128 bits, where the Python runtime has integers of any size.
#pragma once

namespace elir::core {

__extension__ typedef __int128 Wide;  // NOLINT: a using cannot be marked as an extension

// floor(sqrt(n)) for n >= 0.
inline Wide square_root(Wide n) {
  Wide root = 0;
  for (Wide bit = Wide{1} << 62; bit > 0; bit >>= 1) {
    const Wide next = root | bit;
    if (next * next <= n) root = next;
  }
  return root;
}

}  // namespace elir::core
