#include "json.hpp"

#include <algorithm>
#include <set>
#include <vector>

#include "error.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

// A manifest nests about 10 deep. Values are destroyed recursively, so there must be a limit.
constexpr int kMaxDepth = 256;

const std::set<std::string> kRules = {
    "$ref",      "$schema", "default",  "description", "discriminator", "enum",  "maxItems",
    "maxLength", "maximum", "minItems", "minimum",     "required",      "title", "type"};
const std::set<std::string> kOneInside = {"additionalProperties", "items", "propertyNames"};
const std::set<std::string> kSeveralInside = {"$defs", "anyOf", "prefixItems", "properties"};

// Longer strings match no pattern of a manifest; std::regex recurses with their length.
constexpr std::size_t kMaxMatched = 1024;

bool matches(const std::string& text, const std::regex& pattern) {
  return text.size() <= kMaxMatched && std::regex_search(text, pattern);
}

bool has_type(const json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer();
  return type == "number" ? value.is_number() : type == value.type_name();
}

// Null, which allows everything, where there is no such rule.
const json& rule_of(const json& definition, const char* keyword) {
  static const json none;
  const auto found = definition.find(keyword);
  return found == definition.end() ? none : *found;
}

std::string step(const std::string& name) { return (json::json_pointer() / name).to_string(); }

}  // namespace

json parse_json(std::string_view data) {
  // The parser skips a byte order mark, and takes a zero for the end.
  if (data.substr(0, 3) == "\xEF\xBB\xBF") {
    throw bundle_error("damaged: it begins with a byte order mark");
  }
  if (data.find('\0') != std::string_view::npos) throw bundle_error("damaged: it has a zero byte");
  std::vector<std::set<std::string>> open;  // the names in each object that has not ended
  const auto strict = [&](int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    const bool starts = event == Event::object_start || event == Event::array_start;
    if (starts && depth == kMaxDepth) throw bundle_error("damaged: nested too deeply");
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(value.get<std::string>()).second) {
      throw bundle_error("damaged: an object has the entry ", value.dump(), " twice");
    }
    return true;
  };
  try {
    return json::parse(data.begin(), data.end(), strict);
  } catch (const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 1: syntax error while ..."
    const std::string_view reason = error.what();
    throw bundle_error("damaged: ", one_line(reason.substr(reason.find("] ") + 2)));
  }
}

Schema::Schema(json definition) : root_(std::move(definition)) { prepare(root_); }

void Schema::prepare(const json& definition) {
  if (definition.is_boolean()) return;
  for (const auto& [keyword, rule] : definition.items()) {
    if (keyword == "pattern") {
      patterns_.emplace(rule, std::regex(rule.get_ref<const std::string&>()));
    } else if (kOneInside.count(keyword) > 0) {
      prepare(rule);
    } else if (kSeveralInside.count(keyword) > 0) {
      for (const json& inner : rule) prepare(inner);
    } else if (kRules.count(keyword) == 0) {
      throw Failure(ELIR_ERROR_INTERNAL, text("the schema uses the unknown keyword ", keyword));
    }
  }
}

void Schema::check(const json& value) const {
  if (const Found offence = found(value, root_)) {
    throw bundle_error(offence->pointer.empty() ? "it" : offence->pointer, offence->rule);
  }
}

Schema::Found Schema::found(const json& value, const json& definition) const {
  if (definition == false) return Offence{"", " is not an entry that the format has"};
  if (!definition.is_object()) return std::nullopt;
  if (const auto uri = definition.find("$ref"); uri != definition.end()) {
    const auto& name = uri->get_ref<const std::string&>();  // "#/$defs/Model"
    return found(value, root_.at(json::json_pointer(name.substr(1))));
  }
  for (const auto& [keyword, rule] : definition.items()) {
    if (keeps(value, keyword, rule)) continue;
    return Offence{"", text(" is ", shortened(value.dump(), 60), ", against the rule ", keyword,
                            ": ", rule.dump())};
  }
  if (definition.contains("anyOf")) return found_in_choice(value, definition);
  return value.is_structured() ? found_inside(value, definition) : std::nullopt;
}

// Of the choice that the value comes closest to.
Schema::Found Schema::found_in_choice(const json& value, const json& definition) const {
  Found deepest;
  for (const json& choice : definition["anyOf"]) {
    Found offence = found(value, choice);
    if (!offence) return std::nullopt;
    if (!deepest || offence->pointer.size() >= deepest->pointer.size())
      deepest = std::move(offence);
  }
  return deepest;
}

Schema::Found Schema::found_inside(const json& value, const json& definition) const {
  const json& first = rule_of(definition, value.is_array() ? "prefixItems" : "properties");
  const json& others = rule_of(definition, value.is_array() ? "items" : "additionalProperties");
  const json& names = rule_of(definition, "propertyNames");
  std::size_t i = 0;
  for (const auto& [name, inner] : value.items()) {  // of an array, the names are its indices
    Found offence;
    if (value.is_array()) {
      offence = found(inner, i < first.size() ? first[i] : others);
      ++i;
    } else if (offence = found(name, names); !offence) {
      offence = found(inner, first.contains(name) ? first[name] : others);
    }
    if (!offence) continue;
    offence->pointer = step(name) + offence->pointer;
    return offence;
  }
  for (const json& name : rule_of(definition, "required")) {
    if (!value.contains(name)) return Offence{step(name.get<std::string>()), " is missing"};
  }
  return std::nullopt;
}

bool Schema::keeps(const json& value, const std::string& keyword, const json& rule) const {
  if (keyword == "type") return has_type(value, rule);
  if (keyword == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
  if (value.is_number()) {
    return keyword == "minimum" ? value >= rule : keyword != "maximum" || value <= rule;
  }
  if (value.is_string()) {
    const auto& written = value.get_ref<const std::string&>();
    if (keyword == "maxLength") {
      return std::count_if(written.begin(), written.end(), begins_character) <= rule;
    }
    return keyword != "pattern" || matches(written, patterns_.at(rule));
  }
  if (!value.is_array()) return true;
  if (keyword == "minItems") return value.size() >= rule.get<std::size_t>();
  return keyword != "maxItems" || value.size() <= rule.get<std::size_t>();
}

}  // namespace elir::core
