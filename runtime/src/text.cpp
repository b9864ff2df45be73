#include "text.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iomanip>
#include <locale>

namespace elir::core {
namespace {

// Leading byte of a UTF-8 character, as opposed to one that continues it.
bool begins(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

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
    if (at + i >= data.size() || begins(data[at + i])) return 0;
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

std::uint32_t code_point(std::string_view utf8, std::size_t& at) {
  const auto byte = [&] {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(utf8[at]));
  };
  const std::uint32_t first = byte();
  std::uint32_t code = first < 0x80   ? first
                       : first < 0xE0 ? first & 0x1FU
                       : first < 0xF0 ? first & 0x0FU
                                      : first & 0x07U;
  for (++at; at < utf8.size() && !begins(utf8[at]); ++at) code = (code << 6U) | (byte() & 0x3FU);
  return code;
}

// What Python's str.isprintable() refuses, as far as it matters in a message: controls, spaces
// other than the plain one, characters that change direction or join, and private ones.
bool printable(std::uint32_t code) {
  if (code < 0x20 || (code >= 0x7F && code <= 0xA0) || code == 0xAD) return false;
  if (code == 0x1680 || code == 0x3000 || code == 0xFEFF) return false;
  if (code >= 0x2000 && code <= 0x200F) return false;
  if (code >= 0x2028 && code <= 0x202F) return false;
  if (code >= 0x205F && code <= 0x206F) return false;
  if (code >= 0xD800 && code <= 0xF8FF) return false;
  return (code & 0xFFFEU) != 0xFFFEU && code < 0xE0000;
}

// Whether a terminal or a reader of lines may take it for more than a character.
bool breaks_line(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
}

void append_escape(std::string& made, std::uint32_t code) {
  const char* const digits = "0123456789abcdef";
  const int places = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
  made += places == 2 ? "\\x" : places == 4 ? "\\u" : "\\U";
  for (int place = places - 1; place >= 0; --place) {
    made += digits[(code >> static_cast<unsigned>(4 * place)) & 0xFU];
  }
}

std::string scientific(double value, int digits) {
  return text(std::scientific, std::setprecision(digits - 1), value);
}

double read_back(const std::string& digits) {
  std::istringstream stream(digits);
  stream.exceptions(std::ios::badbit);
  stream.imbue(std::locale::classic());
  double value = 0;
  stream >> value;
  return stream.fail() ? HUGE_VAL : value;  // rounded up beyond the largest
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

std::string python_repr(std::string_view utf8) {
  const bool double_quotes =
      utf8.find('\'') != std::string_view::npos && utf8.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string made(1, quote);
  for (std::size_t at = 0; at < utf8.size();) {
    const std::size_t start = at;
    const std::uint32_t code = code_point(utf8, at);
    if (code == '\n') {
      made += "\\n";
    } else if (code == '\r') {
      made += "\\r";
    } else if (code == '\t') {
      made += "\\t";
    } else if (code == '\\' || code == static_cast<std::uint32_t>(quote)) {
      made += '\\';
      made += static_cast<char>(code);
    } else if (printable(code)) {
      made += utf8.substr(start, at - start);
    } else {
      append_escape(made, code);
    }
  }
  return made + quote;
}

std::string python_repr(double value) {
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  int digits = 1;
  while (digits < 17 && read_back(scientific(value, digits)) != value) ++digits;
  const std::string exact = scientific(value, digits);  // "-1.234e-05"
  const std::size_t e = exact.find('e');
  const int exponent = std::atoi(exact.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return exact;
  return text(std::fixed, std::setprecision(std::max(1, digits - 1 - exponent)), value);
}

std::string with_one_digit(double value) { return text(std::fixed, std::setprecision(1), value); }

std::string general(double value) { return text(std::setprecision(6), value); }

std::size_t first_invalid(std::string_view utf8) {
  std::size_t at = 0;
  while (at < utf8.size()) {
    const std::size_t bytes = character(utf8, at);
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

std::size_t length(std::string_view utf8) {
  std::size_t count = 0;
  for (const char byte : utf8) count += begins(byte) ? 1U : 0U;
  return count;
}

std::string shortened(const std::string& utf8) {
  if (length(utf8) <= 60) return utf8;
  std::size_t at = 0;
  for (int count = 0; count < 57; ++count) {
    do ++at;
    while (!begins(utf8[at]));
  }
  return utf8.substr(0, at) + "...";
}

std::string shell_quoted(const std::string& word) {
  constexpr const char* kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string made = "'";
  for (const char byte : word) {
    if (byte == '\'') {
      made += "'\"'\"'";
    } else {
      made += byte;
    }
  }
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
  if (made.size() <= 300) return made;
  std::size_t end = 297;
  for (int i = 0; i < 3 && !begins(made[end]); ++i) --end;  // no character is longer
  return made.substr(0, end) + "...";
}

void write_line(std::string_view message, char* line, std::size_t size) noexcept {
  std::size_t made = 0;
  for (std::size_t at = 0; at < message.size();) {
    const std::size_t bytes = character(message, at);
    const std::string_view taken = message.substr(at, std::max<std::size_t>(bytes, 1));
    if (made + taken.size() >= size) break;
    std::size_t start = 0;
    if (bytes == 0) {
      line[made++] = '?';
    } else if (breaks_line(code_point(taken, start))) {
      line[made++] = ' ';
    } else {
      made += taken.copy(line + made, taken.size());
    }
    at += taken.size();
  }
  line[made] = '\0';
}

}  // namespace elir::core
