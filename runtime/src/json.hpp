// Reads untrusted JSON strictly and validates it against a JSON Schema.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <string>
#include <string_view>

namespace elir::core {

// Throws a bundle error if `data` is not JSON in UTF-8, has a duplicate entry or a number beyond
// the range of double, or is nested too deeply.
nlohmann::json parse_json(std::string_view data);

// A JSON Schema, with the keywords that the manifest's schema uses.
class Schema {
 public:
  // Throws if `definition` uses another keyword, which would be a check left out.
  explicit Schema(nlohmann::json definition);

  // Throws a bundle error with the JSON pointer of the first invalid value and the rule it
  // violates. Arrays are checked in order, objects in the order of their names.
  void check(const nlohmann::json& value) const;

 private:
  using Json = nlohmann::json;
  struct Violation {
    std::string pointer;
    std::string rule;
  };

  void prepare(const Json& definition);
  std::optional<Violation> find_violation(const Json& value, const Json& definition) const;
  std::optional<Violation> find_in_choice(const Json& value, const Json& definition) const;
  std::optional<Violation> find_inside(const Json& value, const Json& definition) const;
  bool satisfies(const Json& value, const std::string& keyword, const Json& rule) const;

  Json root_;
  std::map<std::string, std::regex> patterns_;
};

}  // namespace elir::core
