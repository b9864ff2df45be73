// Fuzzes a manifest: it is valid, or there is a bundle error of one line.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "guard.hpp"
#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace elir::core;  // NOLINT
  const elir_status status = guarded([&] {
    const Manifest manifest = read_manifest({reinterpret_cast<const char*>(data), size});
    for (const auto& [file, hash, bytes] : manifest.files) {
      if (file.front() == '/' || file.find("..") == 0 || file.find("/..") != std::string::npos) {
        std::abort();
      }
    }
  });
  if (status == ELIR_OK) return 0;
  const std::string message = last_error;
  if (status != ELIR_ERROR_BUNDLE || message.empty()) std::abort();
  for (const char byte : message) {
    if (static_cast<unsigned char>(byte) < 0x20) std::abort();
  }
  return 0;
}
