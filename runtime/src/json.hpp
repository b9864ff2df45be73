// JSON from a file that nobody has checked: read strictly, and held against a JSON Schema.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <string>
#include <string_view>

namespace elir::core {

// Throws a bundle error where `data` is no JSON in UTF-8, has an entry twice, has a number beyond
// the range of double, or is nested too deeply.
nlohmann::json parse_json(std::string_view data);

// The keywords of JSON Schema that the manifest's uses.
class Schema {
 public:
  // `definition` must not use a keyword that is not known here: that would be a check left out.
  explicit Schema(nlohmann::json definition);

  // Throws a bundle error that says what the first value is that does not fit, as a JSON pointer,
  // and which rule it breaks. Arrays are looked at in their order, objects in that of their names.
  void check(const nlohmann::json& value) const;

 private:
  using Json = nlohmann::json;
  struct Offence {
    std::string pointer;
    std::string rule;
  };
  using Found = std::optional<Offence>;

  void prepare(const Json& definition);
  Found found(const Json& value, const Json& definition) const;
  Found found_in_choice(const Json& value, const Json& definition) const;
  Found found_inside(const Json& value, const Json& definition) const;
  bool keeps(const Json& value, const std::string& keyword, const Json& rule) const;

  Json root_;
  std::map<std::string, std::regex> patterns_;
};

}  // namespace elir::core
