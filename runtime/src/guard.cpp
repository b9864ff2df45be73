#include "guard.hpp"

#include <cstring>

namespace elir::core {
namespace {

// Fixed, since a message must also be kept where memory has run out.
thread_local char message_of_thread[2048] = "";

}  // namespace

void set_last_error(const char* message) noexcept {
  std::size_t size = std::strlen(message);
  if (size >= sizeof message_of_thread) {
    size = sizeof message_of_thread - 1;
    while ((static_cast<unsigned char>(message[size]) & 0xC0U) == 0x80U)
      --size;  // whole characters
  }
  std::memmove(message_of_thread, message, size);
  message_of_thread[size] = '\0';
}

const char* last_error() noexcept { return message_of_thread; }

}  // namespace elir::core
