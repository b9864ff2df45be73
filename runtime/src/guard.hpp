// Converts exceptions to statuses: no exception leaves the library.
#pragma once

#include <elir/elir.h>

#include <cstring>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>

#include "error.hpp"
#include "text.hpp"

namespace elir::core {

// This thread's last error in one line; see elir_last_error. Of fixed size, so that it can also be
// set when out of memory.
inline thread_local char last_error[2048] = "";

inline elir_status set_error(elir_status status, const char* message) noexcept {
  write_line(message, last_error, sizeof last_error);
  return status;
}

// The number in an enum that the caller set, which may be none of its values.
template <typename Enum>
int raw(const Enum& value) {
  static_assert(sizeof value == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

// Runs `body`; if it throws, stores the message and returns the status.
template <typename Body>
elir_status guarded(Body&& body) noexcept {
  try {
    body();
    return ELIR_OK;
  } catch (const Failure& failure) {
    return set_error(failure.status(), failure.what());
  } catch (const std::bad_alloc&) {
    return set_error(ELIR_ERROR_MEMORY, "out of memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return set_error(ELIR_ERROR_BUNDLE, error.what());
  } catch (const std::system_error& error) {  // a thread cannot be created
    return set_error(ELIR_ERROR_UNAVAILABLE, error.what());
  } catch (const std::length_error&) {  // a size beyond what a vector can hold
    return set_error(ELIR_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return set_error(ELIR_ERROR_INTERNAL, error.what());
  } catch (...) {
    return set_error(ELIR_ERROR_INTERNAL, "an exception that is not a std::exception");
  }
}

}  // namespace elir::core
