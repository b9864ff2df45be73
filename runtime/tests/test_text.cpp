#include <gtest/gtest.h>

#include "error.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

TEST(Text, ShortenedKeepsWholeCharacters) {
  EXPECT_EQ(shortened("12345", 5), "12345");
  EXPECT_EQ(shortened("\u00e9\u00e9\u00e9\u00e9", 8), "\u00e9\u00e9\u00e9\u00e9");
  EXPECT_EQ(shortened("\u00e9\u00e9\u00e9\u00e9x", 8), "\u00e9\u00e9...");
}

TEST(Text, Capitals) { EXPECT_EQ(in_capitals("gpu.1 \u00e9"), "GPU.1 \u00e9"); }

TEST(Text, ShellQuoting) {
  EXPECT_EQ(shell_quoted("a/b-1.bundle"), "a/b-1.bundle");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("it's $HOME"), "'it'\"'\"'s $HOME'");
}

std::string line(std::string_view message, std::size_t size = 100) {
  std::string output(size, 'x');
  write_line(message, output.data(), size);
  return output.c_str();
}

TEST(Text, ZerosInMessages) { EXPECT_STREQ(usage_error(std::string("a\0b", 3)).what(), "a b"); }

TEST(Text, WriteLineWithAnyBytes) {
  EXPECT_EQ(line("plain \u00e9 \U0001F600"), "plain \u00e9 \U0001F600");
  EXPECT_EQ(line(std::string_view("a\nb\0c\r\x1b[2J\x7f\u0085\u2028d", 17)), "a b c  [2J   d");
  EXPECT_EQ(line("\x80 \xff \xc3( \xed\xa0\x80 \xe2\x82"), "? ? ?( ??? ??");
  EXPECT_EQ(line("\x03\x80 \u00e9\x80"), " ? \u00e9?") << "a stray continuation byte";
  EXPECT_EQ(line("\u00e9\u00e9\u00e9", 6), "\u00e9\u00e9")
      << "whole characters and the terminating zero";
  EXPECT_EQ(line("abc", 1), "");
  EXPECT_EQ(line(std::string(5000, '\x80'), 50), std::string(49, '?'));
}

TEST(Text, OneLineOfInvalidBytes) { EXPECT_EQ(one_line(std::string(1000, '\x80')).size(), 297U); }

TEST(Text, OneLineIsOneLine) {
  EXPECT_EQ(one_line("  a\n\n b\t c \n"), "a b c");
  EXPECT_EQ(one_line(std::string(1000, 'x')).size(), 300U);
}

}  // namespace
}  // namespace elir::core
