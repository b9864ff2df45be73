// The one exception of this library; c_api.cpp turns it into a status and a message.
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
  // what() ends where a zero stands; write_line makes spaces of the other controls.
  static std::string without_zeros(std::string message) {
    std::replace(message.begin(), message.end(), '\0', ' ');
    return message;
  }

  elir_status status_;
};

// Each error's text is made of the arguments, one after the other, by text().
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

// Libraries pass a failing allocation on as an error of their own, in whose words it is found.
inline void check_memory(std::string_view reason) {
  if (reason.find("std::bad_alloc") != std::string_view::npos) throw std::bad_alloc();
}

}  // namespace elir::core
