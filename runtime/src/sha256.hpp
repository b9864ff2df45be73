// SHA-256 (FIPS 180-4).
//
// Our own because it is 100 lines: libcrypto would be a dependency with a release calendar of its
// own, on every device, to find damaged files. With the instructions for it that x86 processors
// have, a model is hashed in a small part of the time that it takes to load.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace elir::core {

class Sha256 {
 public:
  // `plain`: without such instructions, for the tests.
  explicit Sha256(bool plain = false) : plain_(plain) {}

  void update(const void* data, std::size_t size);

  // Each ends the computation: the 32 bytes, or lowercase hexadecimal.
  std::array<std::uint8_t, 32> digest();
  std::string finish();

 private:
  void blocks(const std::uint8_t* bytes, std::size_t count);
  void block(const std::uint8_t* bytes);

  [[maybe_unused]] bool plain_;  // where there are none
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_ = {};
  std::size_t filled_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace elir::core
