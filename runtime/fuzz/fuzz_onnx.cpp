// Fuzzes an ONNX file: it is valid, or there is a bundle error of one line.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "guard.hpp"
#include "onnx_check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace elir::core;  // NOLINT
  const std::string content(reinterpret_cast<const char*>(data),
                            size);  // a copy, for AddressSanitizer
  const auto image = [](const char* name) { return End{name, "uint8", {1, 32, 32, 3}}; };
  const elir_status status =
      guarded([&] { check_onnx(content, GraphEnds{{image("image")}, {image("restored")}}); });
  if (status == ELIR_OK) return 0;
  const std::string message = last_error;
  if (status != ELIR_ERROR_BUNDLE || message.empty()) std::abort();
  if (message.size() > 1000) std::abort();
  for (const char byte : message) {
    if (byte < 0x20 || byte > 0x7e) std::abort();
  }
  return 0;
}
