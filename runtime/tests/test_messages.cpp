// The table of messages that both runtimes share: that it is used as it is written.
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "embedded.hpp"
#include "error.hpp"
#include "json.hpp"
#include "messages.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

// The fields that each text names.
std::map<std::string, Names> table() {
  std::map<std::string, Names> made;
  const Json texts = parse_json(kMessages);
  for (const JsonMember& member : texts.as<Json::Object>()) {
    Names& fields = made[member.key];
    const auto& written = member.value.as<std::string>();
    for (std::size_t at = 0; (at = written.find('{', at)) != std::string::npos; ++at) {
      const std::size_t close = written.find('}', at);
      EXPECT_NE(close, std::string::npos) << member.key;
      fields.insert(written.substr(at + 1, close - at - 1));
    }
  }
  return made;
}

struct Use {
  std::string place;  // file and what follows
  std::string id;
  Names fields;
};

// The string literal that begins at `at`, which then is behind it; no escapes in names.
std::string literal(const std::string& code, std::size_t& at) {
  const std::size_t close = code.find('"', at + 1);
  const std::string made = code.substr(at + 1, close - at - 1);
  at = close + 1;
  return made;
}

// The call whose opening parenthesis is before `at`: message("id", {{"field", value}, ...}).
Use use_at(const std::string& code, std::size_t at, const std::string& place) {
  const auto space = [&](std::size_t i) {
    return std::isspace(static_cast<unsigned char>(code[i])) != 0;
  };
  Use made{place + ": " + code.substr(at, 60), "", {}};
  while (space(at)) ++at;
  if (code[at] != '"') return made;
  made.id = literal(code, at);
  int parentheses = 1;
  int braces = 0;
  for (char before = ' '; parentheses > 0; ++at) {
    if (code[at] == '"') {
      const std::string text = literal(code, at);
      if (parentheses == 1 && braces == 2 && before == '{') made.fields.insert(text);
      --at;
      before = '"';
      continue;
    }
    parentheses += code[at] == '(' ? 1 : code[at] == ')' ? -1 : 0;
    braces += code[at] == '{' ? 1 : code[at] == '}' ? -1 : 0;
    if (!space(at)) before = code[at];
  }
  return made;
}

// Every call in the sources of the library, also in those that this build leaves out.
std::vector<Use> uses() {
  const std::string name = "message(";
  std::vector<Use> found;
  for (const auto& entry : fs::recursive_directory_iterator(ELIR_SOURCES)) {
    if (!entry.is_regular_file() || entry.path().stem() == "messages") continue;
    std::ifstream file(entry.path());
    const std::string code{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    for (std::size_t at = 0; (at = code.find(name, at)) != std::string::npos;) {
      const char before = at == 0 ? ' ' : code[at - 1];
      at += name.size();
      if (std::isalnum(static_cast<unsigned char>(before)) != 0 || before == '_' || before == '.') {
        continue;  // another function
      }
      found.push_back(use_at(code, at, entry.path().filename().string()));
    }
  }
  return found;
}

TEST(Messages, EveryOneIsUsedWithItsFields) {
  const auto known = table();
  Names used;
  for (const Use& use : uses()) {
    ASSERT_EQ(known.count(use.id), 1U) << use.place;
    EXPECT_EQ(use.fields, known.at(use.id)) << use.place;
    used.insert(use.id);
  }
  for (const auto& [id, fields] : known) EXPECT_EQ(used.count(id), 1U) << id;
}

TEST(Messages, AValueIsNoText) {
  const std::string hostile = "{reason}{path}{0}{{}}%s%n}{";
  EXPECT_EQ(message("manifest_in", {{"path", hostile}, {"reason", "{path}"}}),
            hostile + ": {path}");
}

TEST(Messages, NumbersAreWrittenPlainly) {
  EXPECT_EQ(message("manifest_large", {{"limit", std::size_t{16777216}}}),
            "larger than 16777216 bytes, so not a manifest");
}

TEST(Messages, AFieldTooManyOrTooFewIsABug) {
  const auto status = [](auto call) {
    try {
      call();
    } catch (const Failure& failure) {
      return failure.status();
    }
    return ELIR_OK;
  };
  EXPECT_EQ(status([] { message("folder_missing"); }), ELIR_ERROR_INTERNAL);
  EXPECT_EQ(status([] { message("folder_missing", {{"path", 1}, {"other", 2}}); }),
            ELIR_ERROR_INTERNAL);
  EXPECT_EQ(status([] { message("no such message"); }), ELIR_ERROR_INTERNAL);
}

}  // namespace
}  // namespace elir::core
