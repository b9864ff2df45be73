// Text as messages need it. The messages are those of the Python runtime, so values are written
// the way Python writes them.
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
  stream.exceptions(std::ios::badbit);  // else a text ends where memory does
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return stream.str();
}

std::string joined(const std::vector<std::string>& parts, std::string_view separator);

// As Python's repr() of a str. `utf8` is valid UTF-8.
std::string python_repr(std::string_view utf8);

// As Python's repr() of a float: the shortest digits that read back as `value`.
std::string python_repr(double value);

// As Python's f"{value:.1f}" and f"{value:g}".
std::string with_one_digit(double value);
std::string general(double value);

// Where the first byte is that belongs to no UTF-8 character, or the size.
std::size_t first_invalid(std::string_view utf8);

// Characters (code points) in valid UTF-8.
std::size_t length(std::string_view utf8);

// Cut to 60 characters, the last three of them "...".
std::string shortened(const std::string& utf8);

// As one word of a shell's command; Python's shlex.quote().
std::string shell_quoted(const std::string& word);

// What a library says in an exception: one line of at most 300 bytes.
std::string one_line(std::string_view message);

// Any bytes as one line of UTF-8: controls become spaces, what is no character question marks. Cut
// to whole characters that fit into the `size` bytes of `line` with a zero behind them.
void write_line(std::string_view message, char* line, std::size_t size) noexcept;

}  // namespace elir::core
