#include "json.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "error.hpp"
#include "messages.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

// A manifest nests 8 deep. Values are destroyed recursively, so there must be some limit.
constexpr std::size_t kMaxDepth = 256;

Failure damaged(const std::string& reason) {
  return bundle_error(message("json_damaged", {{"reason", reason}}));
}

// Builds a Json from what the parser finds.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(std::int64_t value) override { return add(Json(value)); }
  bool number_unsigned(std::uint64_t value) override {
    if (value <= static_cast<std::uint64_t>(INT64_MAX)) {
      return add(Json(static_cast<std::int64_t>(value)));
    }
    return add(Json(Json::BigInteger{std::to_string(value), static_cast<double>(value)}));
  }
  bool number_float(double value, const std::string& written) override {
    if (written.find_first_of(".eE") != std::string::npos) return add(Json(value));
    return add(Json(Json::BigInteger{written, value}));
  }
  bool string(std::string& value) override { return add(Json(Json::Value(std::move(value)))); }
  bool binary(binary_t& /*value*/) override { return false; }  // not in JSON text
  bool start_object(std::size_t /*elements*/) override { return open(Json(Json::Object())); }
  bool start_array(std::size_t /*elements*/) override { return open(Json(Json::Array())); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    open_.back()->as<Json::Object>().push_back({name, Json()});
    return true;
  }

  bool end_object() override {
    const auto& members = open_.back()->as<Json::Object>();
    std::unordered_set<std::string_view> names;
    for (const JsonMember& member : members) names.insert(member.key);
    if (names.size() != members.size()) throw damaged(message("json_entry_twice"));
    return close();
  }

  bool parse_error(std::size_t /*position*/, const std::string& token,
                   const nlohmann::json::exception& error) override {
    if (error.id == 406) throw damaged(message("json_number", {{"number", shortened(token)}}));
    // "[json.exception.parse_error.101] parse error at line 1, column 1: syntax error while ..."
    std::string_view reason = error.what();
    const std::size_t bracket = reason.find("] ");
    if (bracket != std::string_view::npos) reason.remove_prefix(bracket + 2);
    throw damaged(one_line(reason));
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is<Json::Array>()) {
      parent.as<Json::Array>().push_back(std::move(value));
      return &parent.as<Json::Array>().back();
    }
    Json& member = parent.as<Json::Object>().back().value;
    member = std::move(value);
    return &member;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (open_.size() == kMaxDepth) throw bundle_error(message("json_deep"));
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  // Each one the last child of the one before, so nothing that moves a sibling can move it.
  std::vector<Json*> open_;
};

std::string repr_of(const Json& value, bool canonical) {
  if (value.is<std::nullptr_t>()) return "None";
  if (value.is<bool>()) return value.as<bool>() ? "True" : "False";
  if (canonical && value.is_number()) return python_repr(value.number());
  if (value.is<std::int64_t>()) return std::to_string(value.as<std::int64_t>());
  if (value.is<Json::BigInteger>()) return value.as<Json::BigInteger>().digits;
  if (value.is<double>()) return python_repr(value.as<double>());
  if (value.is<std::string>()) return python_repr(value.as<std::string>());
  std::vector<std::string> parts;
  if (value.is<Json::Array>()) {
    for (const Json& item : value.as<Json::Array>()) parts.push_back(repr_of(item, canonical));
    return "[" + joined(parts, ", ") + "]";
  }
  for (const JsonMember& member : value.as<Json::Object>()) {
    parts.push_back(python_repr(member.key) + ": " + repr_of(member.value, canonical));
  }
  if (canonical) std::sort(parts.begin(), parts.end());
  return "{" + joined(parts, ", ") + "}";
}

}  // namespace

double Json::number() const {
  if (is<std::int64_t>()) return static_cast<double>(as<std::int64_t>());
  if (is<BigInteger>()) return as<BigInteger>().value;
  return as<double>();
}

bool Json::is_empty() const {
  if (is_number()) return number() == 0;
  if (is<std::string>()) return as<std::string>().empty();
  if (is<Array>()) return as<Array>().empty();
  if (is<Object>()) return as<Object>().empty();
  return is<std::nullptr_t>() || !as<bool>();
}

const Json* Json::find(std::string_view key) const {
  if (!is<Object>()) return nullptr;
  const auto& members = as<Object>();
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const JsonMember& member) { return member.key == key; });
  return found == members.end() ? nullptr : &found->value;
}

const Json& Json::operator[](std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr) throw Failure(ELIR_ERROR_INTERNAL, text("no entry ", key));
  return *found;
}

std::string Json::repr() const { return repr_of(*this, false); }

std::string Json::canonical() const { return repr_of(*this, true); }

Json parse_json(std::string_view data) {
  const std::size_t invalid = first_invalid(data);
  if (invalid != data.size()) throw bundle_error(message("json_encoding", {{"place", invalid}}));
  Builder builder;
  // The parser skips a byte order mark, and takes a zero for the end.
  if (data.substr(0, 3) == "\xEF\xBB\xBF") throw damaged("begins with a byte order mark");
  nlohmann::json::sax_parse(data.begin(), data.end(), &builder);
  if (data.find('\0') != std::string_view::npos) throw damaged("has a zero byte");
  return builder.take();
}

}  // namespace elir::core
