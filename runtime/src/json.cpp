#include "json.hpp"

#include <algorithm>
#include <set>
#include <vector>

#include "error.hpp"

namespace elir::core {
namespace {

using nlohmann::json;

// A manifest nests about 10 deep. The limit exists because values are destroyed recursively.
constexpr int kMaxDepth = 256;

const std::set<std::string> kRules = {
    "$ref",      "$schema", "default",  "description", "discriminator", "enum",  "maxItems",
    "maxLength", "maximum", "minItems", "minimum",     "required",      "title", "type"};
const std::set<std::string> kSchemaKeywords = {"additionalProperties", "items", "propertyNames"};
const std::set<std::string> kSchemaListKeywords = {"$defs", "anyOf", "prefixItems", "properties"};

// Longer strings match no pattern of a manifest; std::regex recurses once per character.
constexpr std::size_t kMaxMatchedLength = 1024;

bool matches(const std::string& text, const std::regex& pattern) {
  return text.size() <= kMaxMatchedLength && std::regex_search(text, pattern);
}

bool has_type(const json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer();
  return type == "number" ? value.is_number() : type == value.type_name();
}

// Null, which allows everything, if there is no such rule.
const json& rule_of(const json& definition, const char* keyword) {
  static const json none;
  const auto rule = definition.find(keyword);
  return rule == definition.end() ? none : *rule;
}

std::string pointer_to(const std::string& name) {
  return (json::json_pointer() / name).to_string();
}

}  // namespace

json parse_json(std::string_view data) {
  // The parser would skip a byte order mark and stop at a zero.
  if (data.substr(0, 3) == "\xEF\xBB\xBF") {
    throw bundle_error("damaged: begins with a byte order mark");
  }
  if (data.find('\0') != std::string_view::npos)
    throw bundle_error("damaged: contains a zero byte");
  std::vector<std::set<std::string>> open;  // names in the objects that have not ended
  const auto strict = [&](int depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    const bool starts = event == Event::object_start || event == Event::array_start;
    if (starts && depth == kMaxDepth) throw bundle_error("damaged: nested too deeply");
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(value.get<std::string>()).second) {
      throw bundle_error("damaged: an object has the duplicate entry ", value.dump());
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
    } else if (kSchemaKeywords.count(keyword) > 0) {
      prepare(rule);
    } else if (kSchemaListKeywords.count(keyword) > 0) {
      for (const json& inner : rule) prepare(inner);
    } else if (kRules.count(keyword) == 0) {
      throw Failure(ELIR_ERROR_INTERNAL, text("the schema uses the unknown keyword ", keyword));
    }
  }
}

void Schema::check(const json& value) const {
  if (const auto violation = find_violation(value, root_)) {
    throw bundle_error(violation->pointer.empty() ? "it" : violation->pointer, violation->rule);
  }
}

std::optional<Schema::Violation> Schema::find_violation(const json& value,
                                                        const json& definition) const {
  if (definition == false) return Violation{"", " is not an entry of the format"};
  if (!definition.is_object()) return std::nullopt;
  if (const auto uri = definition.find("$ref"); uri != definition.end()) {
    const auto& name = uri->get_ref<const std::string&>();  // "#/$defs/Model"
    return find_violation(value, root_.at(json::json_pointer(name.substr(1))));
  }
  for (const auto& [keyword, rule] : definition.items()) {
    if (satisfies(value, keyword, rule)) continue;
    return Violation{
        "", text(" is ", shortened(value.dump(), 60), ", expected ", keyword, " ", rule.dump())};
  }
  if (definition.contains("anyOf")) return find_in_choice(value, definition);
  return value.is_structured() ? find_inside(value, definition) : std::nullopt;
}

// The violation in the choice that the value comes closest to.
std::optional<Schema::Violation> Schema::find_in_choice(const json& value,
                                                        const json& definition) const {
  std::optional<Violation> deepest;
  for (const json& choice : definition["anyOf"]) {
    auto violation = find_violation(value, choice);
    if (!violation) return std::nullopt;
    if (!deepest || violation->pointer.size() >= deepest->pointer.size())
      deepest = std::move(violation);
  }
  return deepest;
}

std::optional<Schema::Violation> Schema::find_inside(const json& value,
                                                     const json& definition) const {
  const json& first = rule_of(definition, value.is_array() ? "prefixItems" : "properties");
  const json& others = rule_of(definition, value.is_array() ? "items" : "additionalProperties");
  const json& names = rule_of(definition, "propertyNames");
  std::size_t i = 0;
  for (const auto& [name, inner] : value.items()) {  // for an array, the names are its indices
    std::optional<Violation> violation;
    if (value.is_array()) {
      violation = find_violation(inner, i < first.size() ? first[i] : others);
      ++i;
    } else if (violation = find_violation(name, names); !violation) {
      violation = find_violation(inner, first.contains(name) ? first[name] : others);
    }
    if (!violation) continue;
    violation->pointer = pointer_to(name) + violation->pointer;
    return violation;
  }
  for (const json& name : rule_of(definition, "required")) {
    if (!value.contains(name)) return Violation{pointer_to(name.get<std::string>()), " is missing"};
  }
  return std::nullopt;
}

bool Schema::satisfies(const json& value, const std::string& keyword, const json& rule) const {
  if (keyword == "type") return has_type(value, rule);
  if (keyword == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
  if (value.is_number()) {
    return keyword == "minimum" ? value >= rule : keyword != "maximum" || value <= rule;
  }
  if (value.is_string()) {
    const auto& string = value.get_ref<const std::string&>();
    if (keyword == "maxLength") {
      return std::count_if(string.begin(), string.end(), begins_character) <= rule;
    }
    return keyword != "pattern" || matches(string, patterns_.at(rule));
  }
  if (!value.is_array()) return true;
  if (keyword == "minItems") return value.size() >= rule.get<std::size_t>();
  return keyword != "maxItems" || value.size() <= rule.get<std::size_t>();
}

}  // namespace elir::core
