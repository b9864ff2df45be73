#include <gtest/gtest.h>

#include "error.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

TEST(Text, FloatsAsPythonWritesThem) {
  const std::pair<double, const char*> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {-0.5, "-0.5"},
      {0.1, "0.1"},
      {1e-4, "0.0001"},
      {1e-5, "1e-05"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1e22, "1e+22"},
      {123456.75, "123456.75"},
      {5e-324, "5e-324"},
      {1.0 / 3, "0.3333333333333333"},
      {1.7976931348623157e308, "1.7976931348623157e+308"}};
  for (const auto& [value, written] : cases) EXPECT_EQ(python_repr(value), written);
}

TEST(Text, StringsAsPythonWritesThem) {
  EXPECT_EQ(python_repr("it's"), "\"it's\"");
  EXPECT_EQ(python_repr("\"it's\""), "'\"it\\'s\"'");
  EXPECT_EQ(python_repr("a\n\t\x07\x7f\\"), "'a\\n\\t\\x07\\x7f\\\\'");
  EXPECT_EQ(python_repr("é\u2028\U0001F600"), "'é\\u2028\U0001F600'");
}

TEST(Text, ShorteningCountsCharacters) {
  std::string accents;
  for (int i = 0; i < 60; ++i) accents += "é";
  EXPECT_EQ(shortened(accents), accents);
  EXPECT_EQ(length(shortened(accents + "é")), 60U);
  EXPECT_EQ(shortened(accents + "é").substr(114), "...");
}

TEST(Text, ShellQuoting) {
  EXPECT_EQ(shell_quoted("a/b-1.bundle"), "a/b-1.bundle");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("it's $HOME"), "'it'\"'\"'s $HOME'");
}

std::string line(std::string_view message, std::size_t size = 100) {
  std::string made(size, 'x');
  write_line(message, made.data(), size);
  return made.c_str();
}

TEST(Text, AZeroEndsNoMessage) { EXPECT_STREQ(usage_error(std::string("a\0b", 3)).what(), "a b"); }

TEST(Text, AnyBytesAsALine) {
  EXPECT_EQ(line("plain \u00e9 \U0001F600"), "plain \u00e9 \U0001F600");
  EXPECT_EQ(line(std::string_view("a\nb\0c\r\x1b[2J\x7f\u0085\u2028d", 17)), "a b c  [2J   d");
  EXPECT_EQ(line("\x80 \xff \xc3( \xed\xa0\x80 \xe2\x82"), "? ? ?( ??? ??");
  EXPECT_EQ(line("\x03\x80 \u00e9\x80"), " ? \u00e9?") << "what only seems to go on";
  EXPECT_EQ(line("\u00e9\u00e9\u00e9", 6), "\u00e9\u00e9") << "whole characters and a zero";
  EXPECT_EQ(line("abc", 1), "");
  EXPECT_EQ(line(std::string(5000, '\x80'), 50), std::string(49, '?'));
}

TEST(Text, OneLineOfNoCharacters) { EXPECT_EQ(one_line(std::string(1000, '\x80')).size(), 297U); }

TEST(Text, OneLineIsOneLine) {
  EXPECT_EQ(one_line("  a\n\n b\t c \n"), "a b c");
  EXPECT_EQ(one_line(std::string(1000, 'x')).size(), 300U);
}

}  // namespace
}  // namespace elir::core
