// JSON as a manifest may hold it: strict, and with every number as it was written, since messages
// quote it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace elir::core {

struct JsonMember;

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;  // in the order of the file
  // An integer beyond 64 bits: its digits, and about its value.
  struct BigInteger {
    std::string digits;
    double value;
  };
  using Value = std::variant<std::nullptr_t, bool, std::int64_t, BigInteger, double, std::string,
                             Array, Object>;

  Json() = default;
  explicit Json(Value value) : value_(std::move(value)) {}

  template <typename Kind>
  bool is() const {
    return std::holds_alternative<Kind>(value_);
  }
  template <typename Kind>
  const Kind& as() const {
    return std::get<Kind>(value_);
  }
  template <typename Kind>
  Kind& as() {
    return std::get<Kind>(value_);
  }
  bool is_integer() const { return is<std::int64_t>() || is<BigInteger>(); }
  bool is_number() const { return is_integer() || is<double>(); }

  // Whether Python would call it false: nothing, zero or empty.
  bool is_empty() const;

  // Of a number; exact for what 53 bits hold.
  double number() const;

  // The entry of an object; null if it is none or has none of that name.
  const Json* find(std::string_view key) const;

  // The entry of an object that has it.
  const Json& operator[](std::string_view key) const;

  // As Python writes the value.
  std::string repr() const;

  // Equal texts for values that are equal in JSON, where 1 and 1.0 are and 1 and true are not.
  std::string canonical() const;

 private:
  Value value_ = nullptr;
};

struct JsonMember {
  std::string key;
  Json value;
};

// Throws a bundle error, "damaged: ...": not UTF-8, no JSON, an entry twice, a number out of range,
// or nested too deeply.
Json parse_json(std::string_view data);

}  // namespace elir::core
