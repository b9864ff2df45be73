#include "text.hpp"

#include <algorithm>
#include <iomanip>

namespace elir::core {
namespace {

// Bytes of the UTF-8 character at `at`; 0 if there is none.
std::size_t character(std::string_view data, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(data[i]); };
  const unsigned first = byte(at);
  const std::size_t bytes = first < 0x80   ? 1
                            : first < 0xC2 ? 0
                            : first < 0xE0 ? 2
                            : first < 0xF0 ? 3
                            : first < 0xF5 ? 4
                                           : 0;
  for (std::size_t i = 1; i < bytes; ++i) {
    if (at + i >= data.size() || begins_character(data[at + i])) return 0;
  }
  if (bytes >= 3) {  // too long a form, a surrogate, or beyond Unicode
    const unsigned second = byte(at + 1);
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
        (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) {
      return 0;
    }
  }
  return bytes;
}

// Whether a terminal or a reader of lines may take it for more than a character.
bool breaks_line(std::string_view character) {
  const auto first = static_cast<unsigned char>(character.front());
  if (first < 0x20 || first == 0x7F) return true;
  if (first == 0xC2) return static_cast<unsigned char>(character[1]) < 0xA0;  // U+0080 to U+009F
  return character == "\u2028" || character == "\u2029";
}

}  // namespace

std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  std::string made;
  for (const std::string& part : parts) {
    if (!made.empty()) made += separator;
    made += part;
  }
  return made;
}

std::string with_one_digit(double value) { return text(std::fixed, std::setprecision(1), value); }

std::string shortened(const std::string& utf8, std::size_t bytes) {
  if (utf8.size() <= bytes) return utf8;
  std::size_t end = bytes - 3;
  for (int i = 0; i < 3 && !begins_character(utf8[end]); ++i) --end;  // no character is longer
  return utf8.substr(0, end) + "...";
}

std::string shown(std::string_view bytes) {
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
  std::string made = "'";
  for (const char byte : word) made += byte == '\'' ? "'\"'\"'" : std::string(1, byte);
  return made + "'";
}

std::string one_line(std::string_view message) {
  std::string made;
  for (const char byte : message) {
    const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
    if (space && (made.empty() || made.back() == ' ')) continue;
    made += space ? ' ' : byte;
  }
  if (!made.empty() && made.back() == ' ') made.pop_back();
  return shortened(made, 300);
}

void write_line(std::string_view message, char* line, std::size_t size) noexcept {
  std::size_t made = 0;
  for (std::size_t at = 0; at < message.size();) {
    const std::size_t bytes = character(message, at);
    const std::string_view taken = message.substr(at, std::max<std::size_t>(bytes, 1));
    if (made + taken.size() >= size) break;
    if (bytes == 0) {
      line[made++] = '?';
    } else if (breaks_line(taken)) {
      line[made++] = ' ';
    } else {
      made += taken.copy(line + made, taken.size());
    }
    at += taken.size();
  }
  line[made] = '\0';
}

}  // namespace elir::core
