// A library that is opened when it is needed, so that this one starts where it is missing.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace elir::core {

// Stays open until the process ends: what it handed out may be in use until then. Throws a
// std::runtime_error with the system's reason where there is no such library or function.
class SharedLibrary {
 public:
  // By its file's name, in the folders of this library's RUNPATH and where the system looks. Local:
  // symbols of two such libraries may have the same names.
  explicit SharedLibrary(const std::string& file)
      : handle_(found(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))) {}

  template <typename Pointer>
  Pointer function(const char* name) const {
    return reinterpret_cast<Pointer>(found(dlsym(handle_, name)));
  }

 private:
  static void* found(void* object) {
    if (object != nullptr) return object;
    const char* const reason = dlerror();
    throw std::runtime_error(reason == nullptr ? "the system does not say why" : reason);
  }

  void* handle_;
};

}  // namespace elir::core
