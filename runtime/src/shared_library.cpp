#include "shared_library.hpp"

#include <dlfcn.h>

#include <stdexcept>

namespace elir::core {
namespace {

void* found(void* object) {
  if (object != nullptr) return object;
  const char* const reason = dlerror();
  throw std::runtime_error(reason == nullptr ? "the system does not say why" : reason);
}

}  // namespace

// Local: symbols of two such libraries may have the same names.
SharedLibrary::SharedLibrary(const std::string& file)
    : handle_(found(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL))) {}

void* SharedLibrary::symbol(const char* name) const { return found(dlsym(handle_, name)); }

}  // namespace elir::core
