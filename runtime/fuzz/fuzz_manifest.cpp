// Any bytes as a manifest: either it is one, or there is a bundle error of one line.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "error.hpp"
#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace elir::core;  // NOLINT
  try {
    const Manifest seen = read_manifest({reinterpret_cast<const char*>(data), size});
    for (const auto& [file, hash] : seen.file_hashes) {
      if (file.front() == '/' || file.find("..") == 0 || file.find("/..") != std::string::npos) {
        std::abort();
      }
    }
  } catch (const Failure& failure) {
    const std::string message = failure.what();
    if (failure.status() != ELIR_ERROR_BUNDLE || message.empty()) std::abort();
  }
  return 0;
}
