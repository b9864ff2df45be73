// Text for messages.
#pragma once

#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace elir::core {

// The arguments one after the other, whatever the process's locale.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  stream.exceptions(std::ios::badbit);  // without it, text is cut where memory runs out
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return stream.str();
}

// Of UTF-8: leading byte of a character, as opposed to one that continues it.
inline bool begins_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
}

std::string joined(const std::vector<std::string>& parts, std::string_view separator);

std::string with_one_digit(double value);

// At most `bytes` bytes of valid UTF-8; where something is left out, the last three are "...".
std::string shortened(const std::string& utf8, std::size_t bytes);

// Any bytes as at most 60 characters of ASCII.
std::string shown(std::string_view bytes);

// As one word of a POSIX shell's command line.
std::string shell_quoted(const std::string& word);

// What a library says in an exception, as one line of at most 300 bytes.
std::string one_line(std::string_view message);

// Any bytes as one line of UTF-8: a control character becomes a space, and a byte that is no UTF-8
// a question mark. Cut to whole characters that fit into the `size` bytes of `line` with a
// terminating zero.
void write_line(std::string_view message, char* line, std::size_t size) noexcept;

}  // namespace elir::core
