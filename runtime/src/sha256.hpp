// SHA-256 by OpenSSL. Linked statically, these functions add 20 KB and no dependency, and use the
// SHA instructions of x86 and ARM.
#pragma once

#define OPENSSL_SUPPRESS_DEPRECATED  // their replacements link all of OpenSSL, 5 MB
#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <string>

namespace elir::core {

class Sha256 {
 public:
  Sha256() { SHA256_Init(&state_); }

  void update(const void* data, std::size_t size) { SHA256_Update(&state_, data, size); }

  // Both end the computation: 32 bytes, or lowercase hexadecimal.
  std::array<std::uint8_t, SHA256_DIGEST_LENGTH> digest() {
    std::array<std::uint8_t, SHA256_DIGEST_LENGTH> bytes{};
    SHA256_Final(bytes.data(), &state_);
    return bytes;
  }
  std::string finish() {
    std::string digits;
    for (const std::uint8_t byte : digest()) {
      digits += "0123456789abcdef"[byte >> 4U];
      digits += "0123456789abcdef"[byte & 0xFU];
    }
    return digits;
  }

 private:
  SHA256_CTX state_{};
};

}  // namespace elir::core
