#include "guard.hpp"

#include "text.hpp"

namespace elir::core {
namespace {

// Fixed, since a message must also be kept where memory has run out.
thread_local char message_of_thread[2048] = "";

}  // namespace

void set_last_error(const char* message) noexcept {
  write_line(message, message_of_thread, sizeof message_of_thread);
}

const char* last_error() noexcept { return message_of_thread; }

}  // namespace elir::core
