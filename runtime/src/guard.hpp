// The border between exceptions and statuses: nothing thrown inside leaves the library.
#pragma once

#include <elir/elir.h>

#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>

#include "error.hpp"

namespace elir::core {

// Of this thread, as one line; see elir_last_error.
void set_last_error(const char* message) noexcept;
const char* last_error() noexcept;

// Runs `body`; where it throws, keeps the message and gives the status.
template <typename Body>
elir_status guarded(Body&& body) noexcept {
  try {
    body();
    return ELIR_OK;
  } catch (const Failure& failure) {
    set_last_error(failure.what());
    return failure.status();
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return ELIR_ERROR_MEMORY;
  } catch (const std::filesystem::filesystem_error& error) {
    set_last_error(error.what());
    return ELIR_ERROR_BUNDLE;
  } catch (const std::system_error& error) {  // no thread to be had
    set_last_error(error.what());
    return ELIR_ERROR_UNAVAILABLE;
  } catch (const std::length_error&) {  // a size beyond what a vector can hold
    set_last_error("out of memory");
    return ELIR_ERROR_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return ELIR_ERROR_INTERNAL;
  } catch (...) {
    set_last_error("an exception that is none of the standard library's");
    return ELIR_ERROR_INTERNAL;
  }
}

}  // namespace elir::core
