#include "messages.hpp"

#include <algorithm>
#include <set>

#include "embedded.hpp"
#include "error.hpp"
#include "json.hpp"

namespace elir::core {
namespace {

const std::string& text_of(std::string_view id) {
  static const Json texts = parse_json(kMessages);
  return texts[id].as<std::string>();
}

[[noreturn]] void refuse(std::string_view id, std::string_view name) {
  throw Failure(ELIR_ERROR_INTERNAL, text("message ", id, " and the field ", name));
}

}  // namespace

std::string message(std::string_view id, std::initializer_list<Field> fields) {
  const std::string_view written = text_of(id);
  std::string made;
  std::set<std::string_view> used;
  for (std::size_t at = 0; at < written.size();) {
    const std::size_t open = std::min(written.find('{', at), written.size());
    made += written.substr(at, open - at);
    if (open == written.size()) break;
    const std::size_t close = std::min(written.find('}', open), written.size());
    const std::string_view name = written.substr(open + 1, close - open - 1);
    const auto field = std::find_if(fields.begin(), fields.end(),
                                    [&](const Field& each) { return each.name == name; });
    if (field == fields.end()) refuse(id, name);
    made += field->value;
    used.insert(name);
    at = close + 1;
  }
  for (const Field& field : fields) {
    if (used.count(field.name) == 0) refuse(id, field.name);
  }
  return made;
}

}  // namespace elir::core
