// A library that is opened when it is needed, so that this one starts where it is missing.
#pragma once

#include <string>

namespace elir::core {

// Stays open until the process ends: what it handed out may be in use until then.
class SharedLibrary {
 public:
  // By its file's name, in the folders of this library's RUNPATH and where the system looks. Throws
  // a std::runtime_error with the system's reason.
  explicit SharedLibrary(const std::string& file);

  // Throws a std::runtime_error where it has no such function.
  template <typename Pointer>
  Pointer function(const char* name) const {
    return reinterpret_cast<Pointer>(symbol(name));
  }

 private:
  void* symbol(const char* name) const;

  void* handle_;
};

}  // namespace elir::core
