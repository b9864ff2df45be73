#include <elir/elir.hpp>

#include <cstdio>

// Uses both headers, and expects an error for a missing bundle.
int main() {
  try {
    elir::Restorer restorer("no such folder");
  } catch (const elir::Error& error) {
    std::printf("elir %s (%s): %s\n", elir_version(), elir_backends(), error.what());
    return error.status() == ELIR_ERROR_BUNDLE ? 0 : 1;
  }
  return 1;
}
