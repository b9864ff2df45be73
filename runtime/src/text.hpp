// Building and cleaning text for messages.
#pragma once

#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace elir::core {

// Concatenates the arguments, independent of the process's locale.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  stream.exceptions(std::ios::badbit);  // otherwise text is truncated if memory runs out
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return stream.str();
}

// Whether a byte of UTF-8 is the first of a character.
inline bool begins_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U;
}

// The parts with `separator` between them.
std::string joined(const std::vector<std::string>& parts, std::string_view separator);

std::string with_one_digit(double value);

// `name` with the letters of ASCII in capitals.
std::string in_capitals(std::string name);

// At most `bytes` bytes of valid UTF-8; ends in "..." if truncated.
std::string shortened(const std::string& utf8, std::size_t bytes);

// At most 60 bytes of printable ASCII.
std::string printable(std::string_view bytes);

// `word` quoted for a POSIX shell.
std::string shell_quoted(const std::string& word);

// An exception's message as one line of at most 300 bytes.
std::string one_line(std::string_view message);

// Writes `message` as one line of UTF-8 with a terminating zero: control characters become spaces,
// invalid bytes question marks. Truncated to the whole characters that fit into `size` bytes.
void write_line(std::string_view message, char* line, std::size_t size) noexcept;

}  // namespace elir::core
