// The exception that this library throws; c_api.cpp converts it to a status and a message.
#pragma once

#include <elir/elir.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "text.hpp"

namespace elir::core {

class Failure : public std::runtime_error {
 public:
  Failure(elir_status status, std::string message)
      : std::runtime_error(without_zeros(std::move(message))), status_(status) {}
  elir_status status() const noexcept { return status_; }

 private:
  // what() would end at a zero; write_line replaces the other control characters.
  static std::string without_zeros(std::string message) {
    std::replace(message.begin(), message.end(), '\0', ' ');
    return message;
  }

  elir_status status_;
};

// The message is the concatenation of the arguments, by text().
template <typename... Parts>
Failure usage_error(const Parts&... parts) {
  return {ELIR_ERROR_USAGE, text(parts...)};
}
template <typename... Parts>
Failure bundle_error(const Parts&... parts) {
  return {ELIR_ERROR_BUNDLE, text(parts...)};
}
template <typename... Parts>
Failure image_error(const Parts&... parts) {
  return {ELIR_ERROR_IMAGE, text(parts...)};
}
template <typename... Parts>
Failure unavailable_error(const Parts&... parts) {
  return {ELIR_ERROR_UNAVAILABLE, text(parts...)};
}

// Throws std::bad_alloc if a library's error message is about a failed allocation.
inline void check_memory(std::string_view reason) {
  if (reason.find("std::bad_alloc") != std::string_view::npos) throw std::bad_alloc();
}

}  // namespace elir::core
