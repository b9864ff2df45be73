#include "onnx_check.hpp"

#include <set>

#include "cache.hpp"
#include "error.hpp"
#include "onnx_rules.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

template <typename... Parts>
Failure damaged(const Parts&... parts) {
  return bundle_error("damaged: ", parts..., ": copy the bundle again, or export it again");
}

template <typename... Parts>
Failure foreign(const Parts&... parts) {
  return bundle_error("it contains ", parts..., ", which elir-export never writes: copy the ",
                      "bundle again, from a source you trust");
}

// Scanning ----------------------------------------------------------------------------------------

using Message = OnnxRules::Message;
using Field = OnnxRules::Field;

// The field with this tag. Throws if the message may not contain it.
const Field& field_of(const Message& message, std::uint64_t tag, std::size_t position) {
  const std::uint64_t number = tag >> 3U;
  const Field* same = nullptr;
  for (const Field& field : message.fields) {
    if (field.tag == tag) return field;
    if (field.tag >> 3U == number) same = &field;
  }
  if (same != nullptr) {
    throw damaged(message.name, ".", same->name, " has wire type ", tag & 7U, " at byte ",
                  position);
  }
  const auto known = message.forbidden.find(number);
  const std::string name =
      known == message.forbidden.end() ? text("field ", number) : known->second;
  throw foreign(message.name, ".", name, " at byte ", position);
}

const OnnxRules::Element& element_of(const OnnxRules& rules, std::uint64_t number) {
  const auto element = rules.elements.find(number);
  if (element == rules.elements.end()) throw foreign("a tensor of type ", number);
  return element->second;
}

// A range of bytes in the file.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t size() const { return end - begin; }
};

// One pass over an ONNX file.
class Scanner {
 public:
  explicit Scanner(std::string_view content) : content_(content) {}

  void model() {
    std::set<std::string_view> missing = {"graph", "opset_import"};
    each(rules_.messages.at("ModelProto"), {0, content_.size()},
         [&](const Field& field, std::uint64_t, Span span) {
           missing.erase(field.name);
           if (field.name == "graph") {
             graph(*field.inside, span);
           } else if (field.name == "opset_import") {
             opset(*field.inside, span);
           } else if (field.name == "metadata_props") {
             metadata(*field.inside, span);
           }
         });
    if (!missing.empty()) throw damaged("ModelProto has no ", *missing.begin());
  }

  GraphEnds ends;

 private:
  void graph(const Message& message, Span part) {
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "node") {
        node(*field.inside, span);
      } else if (field.name == "value_info") {
        end(*field.inside, span);
      } else if (field.name == "initializer") {
        tensor(*field.inside, span);
      } else if (field.name == "input") {
        ends.inputs.push_back(end(*field.inside, span));
      } else if (field.name == "output") {
        ends.outputs.push_back(end(*field.inside, span));
      }
    });
  }

  void opset(const Message& message, Span part) {
    std::string_view domain;
    std::uint64_t version = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "domain") domain = bytes(span);
      if (field.name == "version") version = number;
    });
    if (!domain.empty() || version < rules_.first_opset || version > rules_.last_opset) {
      throw foreign("opset ", version, " of the domain '", printable(domain), "'");
    }
  }

  void metadata(const Message& message, Span part) {
    std::string_view key;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "key") key = bytes(span);
    });
    if (key.substr(0, rules_.metadata.size()) != rules_.metadata) {
      throw foreign("metadata called '", printable(key), "'");
    }
  }

  void node(const Message& message, Span part) {
    std::string_view op;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "op_type") {
        op = bytes(span);
        if (rules_.operators.count(op) == 0) throw foreign("the operator ", printable(op));
      } else if (field.name == "attribute") {
        attribute(*field.inside, span);
      }
    });
    if (op.empty()) throw damaged("NodeProto has no op_type");
  }

  void attribute(const Message& message, Span part) {
    std::uint64_t type = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span) {
      if (field.name == "type") type = number;
    });
    if (rules_.attribute_types.count(type) == 0) throw foreign("an attribute of type ", type);
  }

  void tensor(const Message& message, Span part) {
    End weight;
    std::uint64_t type = 0;
    std::uint64_t size = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "dims") weight.sides.push_back(static_cast<std::int64_t>(number));
      if (field.name == "data_type") type = number;
      if (field.name == "name") weight.name = bytes(span);
      if (field.name == "raw_data") size = span.size();
    });
    const OnnxRules::Element& element = element_of(rules_, type);
    std::uint64_t expected = element.bytes;
    for (const std::int64_t side : weight.sides) {
      const bool fits = expected == 0 || static_cast<std::uint64_t>(side) <= size / expected;
      expected = fits ? expected * static_cast<std::uint64_t>(side) : size + 1;
      if (!fits) break;
    }
    if (expected == size && size != 0) return;
    weight.dtype = element.name;
    throw damaged("the weight ", weight.describe(), " has ", size,
                  " bytes, which does not match its shape");
  }

  End end(const Message& message, Span part) {
    End result;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "name") result.name = bytes(span);
      if (field.name != "type") return;
      each(*field.inside, span, [&](const Field& type, std::uint64_t, Span tensor) {
        tensor_type(*type.inside, tensor, result);
      });
    });
    return result;
  }

  void tensor_type(const Message& message, Span part, End& result) {
    std::uint64_t type = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "elem_type") type = number;
      if (field.name != "shape") return;
      each(*field.inside, span, [&](const Field& dim, std::uint64_t, Span dimension) {
        std::vector<std::int64_t> sides;
        each(*dim.inside, dimension, [&](const Field& side, std::uint64_t value, Span) {
          sides.push_back(side.name == "dim_value" ? static_cast<std::int64_t>(value) : -1);
        });
        if (sides.size() > 1) {
          throw damaged("TensorShapeProto.Dimension at byte ", dimension.begin, " has two values");
        }
        result.sides.push_back(sides.empty() ? -1 : sides.front());
      });
    });
    result.dtype = element_of(rules_, type).name;
  }

  // Calls `visit` with every field of a message and its number or its bytes.
  template <typename Visit>
  void each(const Message& message, Span part, const Visit& visit) {
    std::uint64_t before = 0;
    for (std::size_t at = part.begin; at < part.end;) {
      const std::size_t position = at;
      const std::uint64_t tag = varint(at, part.end);
      const Field& field = field_of(message, tag, position);
      if (tag < before || (tag == before && field.once)) {
        throw damaged(message.name, ".", field.name, " at byte ", position,
                      " is duplicated or out of order");
      }
      before = tag;
      if (++fields_read_ > rules_.most_fields) {
        throw foreign("more than ", rules_.most_fields, " fields");
      }
      const std::uint64_t wire = tag & 7U;
      const std::uint64_t number = wire == OnnxRules::kFixed32 ? 4 : varint(at, part.end);
      visit(field, number, wire == OnnxRules::kVarint ? Span{} : span(number, at, part.end));
    }
  }

  // Advances `at` by `size` bytes.
  static Span span(std::uint64_t size, std::size_t& at, std::size_t end) {
    if (size > end - at) {
      throw damaged("a field of ", size, " bytes at byte ", at, ", where ", end - at, " are left");
    }
    at += static_cast<std::size_t>(size);
    return {at - static_cast<std::size_t>(size), at};
  }

  // Reads a number and advances `at`. Throws unless it has the shortest encoding.
  std::uint64_t varint(std::size_t& at, std::size_t end) const {
    const std::size_t begin = at;
    std::uint64_t value = 0;
    for (unsigned shift = 0; at < end && shift < 70; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(content_[at++]);
      if (shift == 63 && byte > 1) break;
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte >= 0x80) continue;
      if (byte == 0 && shift != 0) break;
      return value;
    }
    throw damaged("invalid number at byte ", begin);
  }

  std::string_view bytes(Span span) const { return content_.substr(span.begin, span.size()); }

  const OnnxRules& rules_ = onnx_rules();
  std::string_view content_;
  std::uint64_t fields_read_ = 0;
};

}  // namespace

void check_onnx(std::string_view content, const std::optional<GraphEnds>& expected) {
  Scanner scanner(content);
  scanner.model();
  if (expected) check_ends("the graph's", scanner.ends, *expected);
}

void check_onnx_file(const std::filesystem::path& path, const std::optional<GraphEnds>& expected) {
  try {
    if (path.extension() != ".onnx") {  // ONNX Runtime chooses the format by the extension
      throw bundle_error("the name of an ONNX file must end in .onnx");
    }
    const auto file = MappedFile::open(path);
    if (!file) throw bundle_error("the file is empty or cannot be read: copy the bundle again");
    check_onnx({reinterpret_cast<const char*>(file->data()), file->size()}, expected);
  } catch (const Failure& failure) {
    throw bundle_error(path.string(), ": ", failure.what());
  }
}

}  // namespace elir::core
