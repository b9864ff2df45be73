// The one exception of this library; c_api.cpp turns it into a status and a message.
#pragma once

#include <elir/elir.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

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

// The errors of elir_deploy.errors that can happen here.
inline Failure usage_error(const std::string& message) { return {ELIR_ERROR_USAGE, message}; }
inline Failure bundle_error(const std::string& message) { return {ELIR_ERROR_BUNDLE, message}; }
inline Failure image_error(const std::string& message) { return {ELIR_ERROR_IMAGE, message}; }
inline Failure unavailable_error(const std::string& message) {
  return {ELIR_ERROR_UNAVAILABLE, message};
}

}  // namespace elir::core
