// Opens a shared library at run time, so that libelir also loads where that is missing.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace elir::core {

// Stays open until the process ends, since its objects may be in use until then. Throws a
// std::runtime_error with the system's reason if there is no such library or function.
class SharedLibrary {
 public:
  // Searches libelir's RUNPATH and the system's folders for `file`. Local: two such libraries may
  // have symbols of the same names.
  explicit SharedLibrary(const std::string& file)
      : handle_(check(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))) {}

  template <typename Pointer>
  Pointer function(const char* name) const {
    return reinterpret_cast<Pointer>(check(dlsym(handle_, name)));
  }

 private:
  static void* check(void* object) {
    if (object != nullptr) return object;
    const char* const reason = dlerror();
    throw std::runtime_error(reason == nullptr ? "the system gives no reason" : reason);
  }

  void* handle_;
};

}  // namespace elir::core
