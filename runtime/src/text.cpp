#include "text.hpp"

#include <algorithm>
#include <iomanip>
#include <iterator>

namespace elir::core {
namespace {

struct Character {
  std::size_t bytes;  // 0: invalid
  char32_t code;
};

// The first character of `utf8`, which is not empty.
Character first_character(std::string_view utf8) {
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // by number of bytes
  const auto first = static_cast<unsigned char>(utf8.front());
  if (first < 0x80) return {1, first};
  if (first < 0xC0 || first > 0xF7) return {0, 0};
  const std::size_t bytes = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  char32_t code = first & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if (i >= utf8.size() || begins_character(utf8[i])) return {0, 0};
    code = code << 6U | (static_cast<unsigned char>(utf8[i]) & 0x3FU);
  }
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kLeast[bytes] || code > 0x10FFFF || surrogate) return {0, 0};
  return {bytes, code};
}

// Whether a terminal or a line reader may interpret the character.
bool breaks_line(char32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
}

}  // namespace

std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  std::string output;
  for (const std::string& part : parts) {
    if (!output.empty()) output += separator;
    output += part;
  }
  return output;
}

std::string with_one_digit(double value) { return text(std::fixed, std::setprecision(1), value); }

std::string in_capitals(std::string name) {
  for (char& letter : name) {
    if (letter >= 'a' && letter <= 'z') letter = static_cast<char>(letter - 'a' + 'A');
  }
  return name;
}

std::string shortened(const std::string& utf8, std::size_t bytes) {
  if (utf8.size() <= bytes) return utf8;
  std::size_t end = bytes - 3;
  for (int i = 0; i < 3 && !begins_character(utf8[end]); ++i) --end;  // at most 4 bytes each
  return utf8.substr(0, end) + "...";
}

std::string printable(std::string_view bytes) {
  std::string line(bytes.substr(0, 100));
  for (char& byte : line) {
    if (byte < 0x20 || byte > 0x7e) byte = '?';
  }
  return shortened(line, 60);
}

std::string shell_quoted(const std::string& word) {
  constexpr const char* kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char byte : word) quoted += byte == '\'' ? "'\"'\"'" : std::string(1, byte);
  return quoted + "'";
}

std::string one_line(std::string_view message) {
  std::istringstream stream{std::string(message)};
  stream.exceptions(std::ios::badbit);
  stream.imbue(std::locale::classic());
  const std::istream_iterator<std::string> begin(stream);
  return shortened(joined({begin, {}}, " "), 300);
}

void write_line(std::string_view message, char* line, std::size_t size) noexcept {
  std::size_t length = 0;
  while (!message.empty()) {
    const auto [bytes, code] = first_character(message);
    const bool plain = bytes > 0 && !breaks_line(code);
    if (length + (plain ? bytes : 1) >= size) break;
    if (plain) {
      length += message.copy(line + length, bytes);
    } else {
      line[length++] = bytes > 0 ? ' ' : '?';
    }
    message.remove_prefix(std::max<std::size_t>(bytes, 1));
  }
  line[length] = '\0';
}

}  // namespace elir::core
