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
  return bundle_error("damaged: ", parts..., ": copy the bundle again, or make it anew");
}

template <typename... Parts>
Failure foreign(const Parts&... parts) {
  return bundle_error("it holds ", parts..., ", which elir-export never writes: copy the bundle ",
                      "again, and only from people you trust");
}

// Scanning ----------------------------------------------------------------------------------------

using Message = OnnxRules::Message;
using Field = OnnxRules::Field;

// The field that a tag stands before; throws where the message may not hold it.
const Field& allowed(const Message& message, std::uint64_t tag, std::size_t place) {
  const std::uint64_t number = tag >> 3U;
  const Field* same = nullptr;
  for (const Field& field : message.fields) {
    if (field.tag == tag) return field;
    if (field.tag >> 3U == number) same = &field;
  }
  if (same != nullptr) {
    throw damaged(message.name, ".", same->name, " has wire type ", tag & 7U, " at byte ", place);
  }
  const auto never = message.never.find(number);
  const std::string name = never == message.never.end() ? text("field ", number) : never->second;
  throw foreign(message.name, ".", name, " at byte ", place);
}

const OnnxRules::Element& element_of(const OnnxRules& rules, std::uint64_t number) {
  const auto found = rules.elements.find(number);
  if (found == rules.elements.end()) throw foreign("a tensor of type ", number);
  return found->second;
}

// Where in the file some bytes lie.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t size() const { return end - begin; }
};

// One pass over a file.
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

  std::vector<End> inputs;
  std::vector<End> outputs;

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
        inputs.push_back(end(*field.inside, span));
      } else if (field.name == "output") {
        outputs.push_back(end(*field.inside, span));
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
      throw foreign("opset ", version, " of the domain '", shown(domain), "'");
    }
  }

  void metadata(const Message& message, Span part) {
    std::string_view key;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "key") key = bytes(span);
    });
    if (key.substr(0, rules_.metadata.size()) != rules_.metadata) {
      throw foreign("metadata called '", shown(key), "'");
    }
  }

  void node(const Message& message, Span part) {
    std::string_view op;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "op_type") {
        op = bytes(span);
        if (rules_.operators.count(op) == 0) throw foreign("the operator ", shown(op));
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
    End seen;
    std::uint64_t type = 0;
    std::uint64_t size = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "dims") seen.sides.push_back(static_cast<std::int64_t>(number));
      if (field.name == "data_type") type = number;
      if (field.name == "name") seen.name = bytes(span);
      if (field.name == "raw_data") size = span.size();
    });
    const OnnxRules::Element& element = element_of(rules_, type);
    std::uint64_t expected = element.bytes;
    for (const std::int64_t side : seen.sides) {
      const bool fits = expected == 0 || static_cast<std::uint64_t>(side) <= size / expected;
      expected = fits ? expected * static_cast<std::uint64_t>(side) : size + 1;
      if (!fits) break;
    }
    if (expected == size && size != 0) return;
    seen.dtype = element.name;
    throw damaged("the weight ", seen.describe(), " has ", size, " bytes, which is another number");
  }

  End end(const Message& message, Span part) {
    End seen;
    each(message, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "name") seen.name = bytes(span);
      if (field.name != "type") return;
      each(*field.inside, span, [&](const Field& type, std::uint64_t, Span tensor) {
        tensor_type(*type.inside, tensor, seen);
      });
    });
    return seen;
  }

  void tensor_type(const Message& message, Span part, End& seen) {
    std::uint64_t type = 0;
    each(message, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "elem_type") type = number;
      if (field.name != "shape") return;
      each(*field.inside, span, [&](const Field& dim, std::uint64_t, Span dimension) {
        std::vector<std::int64_t> sides;
        each(*dim.inside, dimension, [&](const Field& given, std::uint64_t value, Span) {
          sides.push_back(given.name == "dim_value" ? static_cast<std::int64_t>(value) : -1);
        });
        if (sides.size() > 1) {
          throw damaged("TensorShapeProto.Dimension at byte ", dimension.begin, " is two");
        }
        seen.sides.push_back(sides.empty() ? -1 : sides.front());
      });
    });
    seen.dtype = element_of(rules_, type).name;
  }

  // Protocol buffers.

  // Calls `visit` with every field of a message, and its number or its bytes.
  template <typename Visit>
  void each(const Message& message, Span part, const Visit& visit) {
    std::uint64_t before = 0;
    for (std::size_t at = part.begin; at < part.end;) {
      const std::size_t place = at;
      const std::uint64_t tag = varint(at, part.end);
      const Field& field = allowed(message, tag, place);
      if (tag < before || (tag == before && field.once)) {
        throw damaged(message.name, ".", field.name, " at byte ", place,
                      " is there twice or out of order");
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

  // Moves `at` behind so many bytes.
  static Span span(std::uint64_t size, std::size_t& at, std::size_t end) {
    if (size > end - at) {
      throw damaged(size, " bytes from byte ", at, " on, where ", end - at, " are left");
    }
    at += static_cast<std::size_t>(size);
    return {at - static_cast<std::size_t>(size), at};
  }

  // Moves `at` behind the number that stands there, in as few bytes as it needs.
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
    throw damaged("no number at byte ", begin);
  }

  std::string_view bytes(Span span) const { return content_.substr(span.begin, span.size()); }

  const OnnxRules& rules_ = onnx_rules();
  std::string_view content_;
  std::uint64_t fields_read_ = 0;
};

}  // namespace

void check_onnx(std::string_view content, const std::vector<End>& inputs,
                const std::vector<End>& outputs) {
  Scanner scanner(content);
  scanner.model();
  check_ends("the graph's input", scanner.inputs, inputs);
  check_ends("the graph's output", scanner.outputs, outputs);
}

void check_onnx_file(const std::filesystem::path& path, const std::vector<End>& inputs,
                     const std::vector<End>& outputs) {
  try {
    if (path.extension() != ".onnx") {  // by which ONNX Runtime tells other formats
      throw bundle_error("a graph in a file of this name, expected one that ends in .onnx");
    }
    const auto file = MappedFile::of(path);
    if (!file) throw bundle_error("the file is empty or cannot be read: copy the bundle again");
    check_onnx({reinterpret_cast<const char*>(file->data()), file->size()}, inputs, outputs);
  } catch (const Failure& failure) {
    throw bundle_error(path.string(), ": ", failure.what());
  }
}

}  // namespace elir::core
