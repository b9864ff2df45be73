// Checks a value against a JSON Schema: the part of draft 7 that the manifest's schema uses.
#pragma once

#include <map>
#include <regex>
#include <string>

#include "json.hpp"

namespace elir::core {

class Schema {
 public:
  // `definition` must not use a keyword that is not known here: that would be a check left out.
  explicit Schema(Json definition);

  Schema(const Schema&) = delete;
  Schema& operator=(const Schema&) = delete;

  // Throws a bundle error with the words of fastjsonschema, which the Python runtime uses: where
  // the first thing is that is wrong, what is wanted there, and what is there.
  void check(const Json& value) const;

 private:
  void prepare(const Json& definition);
  void check(const Json& value, const Json& definition, const std::string& name) const;
  void check_text(const Json& value, const Json& definition, const std::string& name) const;
  void check_number(const Json& value, const Json& definition, const std::string& name) const;
  void check_array(const Json& value, const Json& definition, const std::string& name) const;
  void check_object(const Json& value, const Json& definition, const std::string& name) const;
  const Json& referred(const Json& definition) const;

  Json root_;
  std::map<std::string, std::regex> patterns_;
};

}  // namespace elir::core
