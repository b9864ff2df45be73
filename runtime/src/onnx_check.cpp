#include "onnx_check.hpp"

#include <algorithm>

#include "cache.hpp"
#include "error.hpp"
#include "onnx_rules.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

Failure damaged(const std::string& what) {
  return bundle_error(text("damaged: ", what, ": copy the bundle again, or make it anew"));
}

Failure foreign(const std::string& what) {
  return bundle_error(text("it holds ", what, ", which elir-export never writes: copy the bundle ",
                           "again, and only from people you trust"));
}

// Any bytes as a few characters of a message.
std::string shown(std::string_view bytes) {
  constexpr std::size_t kMost = 60;
  std::string made(bytes.substr(0, kMost));
  for (char& byte : made) {
    if (byte < 0x20 || byte > 0x7e) byte = '?';
  }
  return bytes.size() > kMost ? made.replace(kMost - 3, 3, "...") : made;
}

std::string described(const End& end) {
  std::vector<std::string> sides;
  for (const auto& side : end.dims) sides.push_back(side ? std::to_string(*side) : "?");
  return text(shown(end.name), ": ", end.dtype, " ", joined(sides, "x"));
}

std::string described(const std::vector<End>& ends) {
  std::vector<std::string> made;
  for (const End& end : ends) {
    if (made.size() < 4) made.push_back(described(end));
  }
  return made.empty() ? "nothing" : joined(made, ", ");
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
    throw damaged(
        text(message.name, ".", same->name, " has wire type ", tag & 7U, " at byte ", place));
  }
  const auto found = message.never.find(number);
  const std::string name = found == message.never.end() ? text("field ", number) : found->second;
  throw foreign(text(message.name, ".", name, " at byte ", place));
}

const OnnxRules::Element& element_of(const OnnxRules& rules, std::uint64_t number) {
  const auto found = rules.elements.find(number);
  if (found == rules.elements.end()) throw foreign(text("a tensor of type ", number));
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
    bool has_graph = false;
    bool has_opset = false;
    each(rules_.model, {0, content_.size()}, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "graph") {
        has_graph = true;
        graph(span);
      } else if (field.name == "opset_import") {
        has_opset = true;
        opset(span);
      } else if (field.name == "metadata_props") {
        metadata(span);
      }
    });
    if (!has_graph || !has_opset) {
      throw damaged(text("ModelProto has no ", has_graph ? "opset_import" : "graph"));
    }
  }

  std::vector<End> inputs;
  std::vector<End> outputs;

 private:
  void graph(Span part) {
    each(rules_.graph, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "node") {
        node(span);
      } else if (field.name == "value_info") {
        end(span);
      } else if (field.name == "initializer") {
        tensor(span);
      } else if (field.name == "input") {
        inputs.push_back(end(span));
      } else if (field.name == "output") {
        outputs.push_back(end(span));
      }
    });
  }

  void opset(Span part) {
    std::string_view domain;
    std::uint64_t version = 0;
    each(rules_.opset, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "domain") {
        domain = bytes(span);
      } else {
        version = number;
      }
    });
    if (!domain.empty() || version < rules_.first_opset || version > rules_.last_opset) {
      throw foreign(text("opset ", version, " of the domain '", shown(domain), "'"));
    }
  }

  void metadata(Span part) {
    std::string_view key;
    each(rules_.entry, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "key") key = bytes(span);
    });
    if (key.substr(0, rules_.metadata.size()) != rules_.metadata) {
      throw foreign(text("metadata called '", shown(key), "'"));
    }
  }

  void node(Span part) {
    std::string_view op;
    each(rules_.node, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "op_type") {
        op = bytes(span);
        if (rules_.operators.count(op) == 0) throw foreign(text("the operator ", shown(op)));
      } else if (field.name == "attribute") {
        attribute(span);
      }
    });
    if (op.empty()) throw damaged("NodeProto has no op_type");
  }

  void attribute(Span part) {
    std::uint64_t type = 0;
    each(rules_.attribute, part, [&](const Field& field, std::uint64_t number, Span) {
      if (field.name == "type") type = number;
    });
    if (rules_.attribute_types.count(type) == 0) throw foreign(text("an attribute of type ", type));
  }

  void tensor(Span part) {
    End seen;
    std::uint64_t type = 0;
    std::uint64_t size = 0;
    each(rules_.tensor, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "dims") {
        seen.dims.emplace_back(number);
      } else if (field.name == "data_type") {
        type = number;
      } else if (field.name == "name") {
        seen.name = bytes(span);
      } else if (field.name == "raw_data") {
        size = span.size();
      }
    });
    const OnnxRules::Element& element = element_of(rules_, type);
    std::uint64_t wanted = element.bytes;
    for (const auto& side : seen.dims) {
      const bool fits = wanted == 0 || *side <= size / wanted;
      wanted = fits ? wanted * *side : size + 1;
      if (!fits) break;
    }
    if (wanted == size && size != 0) return;
    seen.dtype = element.name;
    seen.dims.resize(std::min<std::size_t>(seen.dims.size(), 8));
    throw damaged(
        text("the weight ", described(seen), " has ", size, " bytes, which is another number"));
  }

  End end(Span part) {
    End seen;
    each(rules_.value, part, [&](const Field& field, std::uint64_t, Span span) {
      if (field.name == "name") {
        seen.name = bytes(span);
      } else if (field.name == "type") {
        each(rules_.type, span,
             [&](const Field&, std::uint64_t, Span tensor) { tensor_type(tensor, seen); });
      }
    });
    return seen;
  }

  void tensor_type(Span part, End& seen) {
    std::uint64_t type = 0;
    each(rules_.tensor_type, part, [&](const Field& field, std::uint64_t number, Span span) {
      if (field.name == "elem_type") {
        type = number;
        return;
      }
      each(rules_.shape, span, [&](const Field&, std::uint64_t, Span dimension) {
        std::vector<std::optional<std::uint64_t>> sides;
        each(rules_.side, dimension, [&](const Field& given, std::uint64_t value, Span) {
          sides.push_back(given.name == "dim_value" ? std::optional(value) : std::nullopt);
        });
        if (sides.size() > 1) {
          throw damaged(text("TensorShapeProto.Dimension at byte ", dimension.begin, " is two"));
        }
        seen.dims.push_back(sides.empty() ? std::nullopt : sides.front());
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
        throw damaged(text(message.name, ".", field.name, " at byte ", place,
                           " is there twice or out of order"));
      }
      before = tag;
      if (++fields_read_ > rules_.most_fields) {
        throw foreign(text("more than ", rules_.most_fields, " fields"));
      }
      const std::uint64_t wire = tag & 7U;
      const std::uint64_t number = wire == OnnxRules::kFixed32 ? 4 : varint(at, part.end);
      visit(field, number, wire == OnnxRules::kVarint ? Span{} : span(number, at, part.end));
    }
  }

  // Moves `at` behind so many bytes.
  static Span span(std::uint64_t size, std::size_t& at, std::size_t end) {
    if (size > end - at) {
      throw damaged(text(size, " bytes from byte ", at, " on, where ", end - at, " are left"));
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
    throw damaged(text("no number at byte ", begin));
  }

  std::string_view bytes(Span span) const { return content_.substr(span.begin, span.size()); }

  const OnnxRules& rules_ = onnx_rules();
  std::string_view content_;
  std::uint64_t fields_read_ = 0;
};

void check_ends(const char* what, const std::vector<End>& seen, const std::vector<End>& wanted) {
  if (seen == wanted) return;
  throw bundle_error(text("the graph's ", what, " is ", described(seen), ", the manifest says ",
                          described(wanted),
                          ": the files of two bundles were mixed, copy the bundle again"));
}

}  // namespace

void check_onnx(std::string_view content, const std::vector<End>& inputs,
                const std::vector<End>& outputs) {
  Scanner scanner(content);
  scanner.model();
  check_ends("input", scanner.inputs, inputs);
  check_ends("output", scanner.outputs, outputs);
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
    throw bundle_error(text(path.string(), ": ", failure.what()));
  }
}

}  // namespace elir::core
