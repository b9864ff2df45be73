// The border between exceptions and statuses: nothing thrown inside leaves the library.
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

// Of this thread, as one line; see elir_last_error. Fixed, since a message must also be kept where
// memory has run out.
inline thread_local char last_error[2048] = "";

inline elir_status keep_error(elir_status status, const char* message) noexcept {
  write_line(message, last_error, sizeof last_error);
  return status;
}

// What an enum of the caller's holds, which may be none of its values.
template <typename Enum>
int raw(const Enum& value) {
  static_assert(sizeof value == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

// Runs `body`; where it throws, keeps the message and gives the status.
template <typename Body>
elir_status guarded(Body&& body) noexcept {
  try {
    body();
    return ELIR_OK;
  } catch (const Failure& failure) {
    return keep_error(failure.status(), failure.what());
  } catch (const std::bad_alloc&) {
    return keep_error(ELIR_ERROR_MEMORY, "out of memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return keep_error(ELIR_ERROR_BUNDLE, error.what());
  } catch (const std::system_error& error) {  // no thread to be had
    return keep_error(ELIR_ERROR_UNAVAILABLE, error.what());
  } catch (const std::length_error&) {  // a size beyond what a vector can hold
    return keep_error(ELIR_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return keep_error(ELIR_ERROR_INTERNAL, error.what());
  } catch (...) {
    return keep_error(ELIR_ERROR_INTERNAL, "an exception that is none of the standard library's");
  }
}

}  // namespace elir::core
