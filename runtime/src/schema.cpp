#include "schema.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <unordered_set>

#include "error.hpp"
#include "messages.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

constexpr std::string_view kKnown[] = {"$ref",
                                       "type",
                                       "enum",
                                       "const",
                                       "anyOf",
                                       "maxLength",
                                       "pattern",
                                       "minimum",
                                       "maximum",
                                       "minItems",
                                       "maxItems",
                                       "uniqueItems",
                                       "items",
                                       "required",
                                       "properties",
                                       "patternProperties",
                                       "additionalProperties",
                                       "$schema",
                                       "title",
                                       "description",
                                       "definitions"};

// Longer strings match no pattern of a manifest; std::regex recurses with their length.
constexpr std::size_t kMaxMatched = 4096;

[[noreturn]] void fail(const std::string& name, const std::string& wanted, const Json& seen) {
  std::string_view where = name;  // "data.model.image_size"
  where.remove_prefix(4);
  if (!where.empty() && where.front() == '.') where.remove_prefix(1);
  throw bundle_error(message(
      "manifest_schema", {{"rule", text(where, " ", wanted)}, {"seen", shortened(seen.repr())}}));
}

bool has_type(const Json& value, const std::string& type) {
  if (type == "null") return value.is<std::nullptr_t>();
  if (type == "boolean") return value.is<bool>();
  if (type == "string") return value.is<std::string>();
  if (type == "array") return value.is<Json::Array>();
  if (type == "object") return value.is<Json::Object>();
  if (type == "number") return value.is_number();
  // JSON Schema counts 1.0 as an integer.
  if (!value.is<double>()) return value.is_integer();
  const double number = value.as<double>();
  return number == std::nearbyint(number);
}

std::string written(const Json& value) {  // as Python's str()
  return value.is<std::string>() ? value.as<std::string>() : value.repr();
}

}  // namespace

Schema::Schema(Json definition) : root_(std::move(definition)) { prepare(root_); }

void Schema::prepare(const Json& definition) {
  if (!definition.is<Json::Object>()) return;  // additionalProperties: false
  for (const JsonMember& member : definition.as<Json::Object>()) {
    if (std::find(std::begin(kKnown), std::end(kKnown), member.key) == std::end(kKnown)) {
      throw Failure(ELIR_ERROR_INTERNAL,
                    "the schema uses " + member.key + ", unknown to this reader");
    }
    if (member.key == "pattern") {
      const auto& pattern = member.value.as<std::string>();
      patterns_.emplace(pattern, std::regex(pattern));
    } else if (member.key == "items" || member.key == "additionalProperties") {
      prepare(member.value);
    } else if (member.key == "anyOf") {
      for (const Json& choice : member.value.as<Json::Array>()) prepare(choice);
    } else if (member.key == "properties" || member.key == "definitions" ||
               member.key == "patternProperties") {
      for (const JsonMember& inner : member.value.as<Json::Object>()) {
        prepare(inner.value);
        if (member.key == "patternProperties") patterns_.emplace(inner.key, std::regex(inner.key));
      }
    }
  }
}

void Schema::check(const Json& value) const { check(value, root_, "data"); }

const Json& Schema::referred(const Json& definition) const {
  const Json* reference = definition.find("$ref");
  if (reference == nullptr) return definition;
  constexpr std::string_view kPrefix = "#/definitions/";
  return root_["definitions"][reference->as<std::string>().substr(kPrefix.size())];
}

// In fastjsonschema's order, so that of several things wrong the same one is named.
void Schema::check(const Json& value, const Json& given, const std::string& name) const {
  const Json& definition = referred(given);
  if (const Json* type = definition.find("type")) {
    std::vector<std::string> types;
    if (type->is<std::string>()) {
      types.push_back(type->as<std::string>());
    } else {
      for (const Json& each : type->as<Json::Array>()) types.push_back(each.as<std::string>());
    }
    if (std::none_of(types.begin(), types.end(),
                     [&](const auto& t) { return has_type(value, t); })) {
      fail(name, "must be " + joined(types, " or "), value);
    }
  }
  if (const Json* choices = definition.find("enum")) {
    const auto& all = choices->as<Json::Array>();
    const std::string seen = value.canonical();
    if (std::none_of(all.begin(), all.end(),
                     [&](const Json& c) { return c.canonical() == seen; })) {
      fail(name, "must be one of " + choices->repr(), value);
    }
  }
  if (const Json* choices = definition.find("anyOf")) {
    const auto& all = choices->as<Json::Array>();
    const bool fits = std::any_of(all.begin(), all.end(), [&](const Json& choice) {
      try {
        check(value, choice, name);
        return true;
      } catch (const Failure&) {
        return false;
      }
    });
    if (!fits) fail(name, "cannot be validated by any definition", value);
  }
  if (value.is<std::string>()) check_text(value, definition, name);
  if (value.is_number()) check_number(value, definition, name);
  if (value.is<Json::Array>()) check_array(value, definition, name);
  if (value.is<Json::Object>()) check_object(value, definition, name);
  if (const Json* wanted = definition.find("const")) {
    if (wanted->canonical() != value.canonical()) {
      fail(name, "must be same as const definition: " + written(*wanted), value);
    }
  }
}

void Schema::check_text(const Json& value, const Json& definition, const std::string& name) const {
  const auto& seen = value.as<std::string>();
  if (const Json* most = definition.find("maxLength")) {
    if (static_cast<double>(length(seen)) > most->number()) {
      fail(name, "must be shorter than or equal to " + most->repr() + " characters", value);
    }
  }
  if (const Json* pattern = definition.find("pattern")) {
    const auto& written_pattern = pattern->as<std::string>();
    if (seen.size() > kMaxMatched || !std::regex_search(seen, patterns_.at(written_pattern))) {
      fail(name, "must match pattern " + written_pattern, value);
    }
  }
}

void Schema::check_number(const Json& value, const Json& definition,
                          const std::string& name) const {
  if (const Json* least = definition.find("minimum")) {
    if (value.number() < least->number()) {
      fail(name, "must be bigger than or equal to " + least->repr(), value);
    }
  }
  if (const Json* most = definition.find("maximum")) {
    if (value.number() > most->number()) {
      fail(name, "must be smaller than or equal to " + most->repr(), value);
    }
  }
}

void Schema::check_array(const Json& value, const Json& definition, const std::string& name) const {
  const auto& items = value.as<Json::Array>();
  const auto count = static_cast<double>(items.size());
  if (const Json* least = definition.find("minItems")) {
    if (count < least->number()) {
      fail(name, "must contain at least " + least->repr() + " items", value);
    }
  }
  if (const Json* most = definition.find("maxItems")) {
    if (count > most->number()) {
      fail(name, "must contain less than or equal to " + most->repr() + " items", value);
    }
  }
  if (definition.find("uniqueItems") != nullptr) {
    std::unordered_set<std::string> seen;
    for (const Json& item : items) seen.insert(item.canonical());
    if (seen.size() != items.size()) fail(name, "must contain unique items", value);
  }
  if (const Json* each = definition.find("items")) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      check(items[i], *each, text(name, "[", i, "]"));
    }
  }
}

void Schema::check_object(const Json& value, const Json& definition,
                          const std::string& name) const {
  if (const Json* required = definition.find("required")) {
    std::set<std::string> missing;
    for (const Json& each : required->as<Json::Array>()) {
      const auto& key = each.as<std::string>();
      if (value.find(key) == nullptr) missing.insert(python_repr(key));
    }
    if (!missing.empty()) {
      fail(name, "must contain [" + joined({missing.begin(), missing.end()}, ", ") + "] properties",
           value);
    }
  }
  std::set<std::string_view> unknown;
  for (const JsonMember& member : value.as<Json::Object>()) unknown.insert(member.key);
  if (const Json* properties = definition.find("properties")) {
    for (const JsonMember& property : properties->as<Json::Object>()) {
      if (unknown.erase(property.key) == 0) continue;
      check(value[property.key], property.value, name + "." + property.key);
    }
  }
  if (const Json* patterns = definition.find("patternProperties")) {
    for (const JsonMember& member : value.as<Json::Object>()) {
      for (const JsonMember& pattern : patterns->as<Json::Object>()) {
        if (member.key.size() > kMaxMatched) continue;
        if (!std::regex_search(member.key, patterns_.at(pattern.key))) continue;
        unknown.erase(member.key);
        check(member.value, pattern.value, name + "." + member.key);
      }
    }
  }
  const Json* additional = definition.find("additionalProperties");
  if (additional == nullptr) return;
  if (additional->is<Json::Object>()) {
    for (const JsonMember& member : value.as<Json::Object>()) {
      if (unknown.count(member.key) == 0) continue;
      check(member.value, *additional, name + "." + member.key);
    }
  } else if (!additional->as<bool>() && !unknown.empty()) {
    std::vector<std::string> keys;
    for (const std::string_view key : unknown) keys.push_back(python_repr(key));
    fail(name, "must not contain {" + joined(keys, ", ") + "} properties", value);
  }
}

}  // namespace elir::core
