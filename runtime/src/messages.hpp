// What this runtime and the one in Python say in the same words: the texts of
// elir_deploy/runtime/messages.json. A text names its fields in braces.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "text.hpp"

namespace elir::core {

// What is put in the place of "{name}", as it is, braces and all.
struct Field {
  template <typename Value>
  Field(std::string_view named, const Value& given) : name(named), value(text(given)) {}

  std::string_view name;
  std::string value;
};

// The text called `id`, given exactly the fields that it names; else an internal error is thrown.
std::string message(std::string_view id, std::initializer_list<Field> fields = {});

}  // namespace elir::core
