// Damaged graphs, and graphs that elir-export does not write. tests/runtime_cpp compares thousands
// more with the Python runtime.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "error.hpp"
#include "onnx_bytes.hpp"
#include "onnx_check.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;
using test::bytes;
using test::number;
using test::onnx_model;
using test::onnx_node;
using test::onnx_tensor;
using test::OnnxGraph;

const GraphEnds kEnds = {{{"image", "uint8", {1, 8, 8, 3}}}, {{"restored", "uint8", {1, 8, 8, 3}}}};

// The error for a file with this content; empty: valid.
std::string refusal(const std::string& content) {
  try {
    check_onnx(content, kEnds);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
    return failure.what();
  }
  return "";
}

OnnxGraph graph_of(std::vector<std::string> nodes, std::vector<std::string> tensors = {}) {
  return {std::move(nodes),
          std::move(tensors),
          {test::onnx_value("image", test::kOnnxUint8, {1, 8, 8, 3})},
          test::onnx_value("restored", test::kOnnxUint8, {1, 8, 8, 3})};
}

const std::string kAdd = onnx_node("Add", {"image", "image"}, "restored");
const std::string kTwoFloats = std::string(8, 'w');

std::string attribute(const std::string& content, std::uint64_t type) {
  return bytes(5, bytes(1, "a") + content + number(20, type));
}

void expect_refused(const std::string& content, const std::string& why) {
  const std::string error = refusal(content);
  EXPECT_NE(error.find(why), std::string::npos) << "\"" << error << "\", expected " << why;
}

std::string with_node(const std::string& node) { return onnx_model(graph_of({node}).content()); }
std::string with_tensor(const std::string& tensor) {
  return onnx_model(graph_of({kAdd}, {tensor}).content());
}

TEST(OnnxCheck, AcceptsASmallGraph) {
  const std::string node = onnx_node("Add", {"image", "w"}, "restored",
                                     attribute(number(3, 1), 2) + attribute(bytes(4, "text"), 3) +
                                         attribute(number(8, 1) + number(8, 2), 7));
  const std::string tensor = onnx_tensor("w", test::kOnnxFloat, {1, 2}, kTwoFloats);
  EXPECT_EQ(refusal(onnx_model(graph_of({node}, {tensor}).content(),
                               bytes(14, bytes(1, "elir.task") + bytes(2, "tiny")))),
            "");
}

const End kTinyInput = {"image", "uint8", {1, 256, 256, 3}};
const End kTinyOutput = {"restored", "uint8", {1, 256, 256, 3}};
const End kTinyNoise = {"noise", "float32", {1, 32, 32, 32}};
const GraphEnds kTinyEnds = {{kTinyInput, kTinyNoise}, {kTinyOutput}};
const GraphEnds kSwappedEnds = {{kTinyOutput}, {kTinyInput}};

TEST(OnnxCheck, AcceptsThePackagedModel) {
  for (const char* name :
       {"fused.fp32.onnx", "fused.fp16.onnx", "fused.int8.onnx", "fused.w8.onnx"}) {
    const fs::path file = fs::path(ELIR_TINY) / name;
    EXPECT_NO_THROW(check_onnx_file(file, kTinyEnds)) << name;
    EXPECT_THROW(check_onnx_file(file, kSwappedEnds), Failure) << name;
  }
}

TEST(OnnxCheck, TruncatedFiles) {
  std::ifstream file(fs::path(ELIR_TINY) / "fused.int8.onnx", std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_NO_THROW(check_onnx(whole, kTinyEnds));
  for (std::size_t i = 0; i < 24; ++i) {
    const std::size_t size = i < 14 ? 1 + i * i : whole.size() * (i - 13) / 11;
    EXPECT_THROW(check_onnx(whole.substr(0, size), kTinyEnds), Failure) << size;
  }
}

// ONNX Runtime reads weights from the address or the file that a graph names.
TEST(OnnxCheck, ExternalWeights) {
  const auto entry = [](const char* key, const char* value) {
    return bytes(13, bytes(1, key) + bytes(2, value));
  };
  const std::string described = number(1, 2) + number(2, 1) + bytes(8, "w");
  for (const char* place : {"*/_ORT_MEM_ADDR_/*", "/etc/passwd", "weights.bin"}) {
    expect_refused(with_tensor(described + entry("location", place) + entry("offset", "4096") +
                               entry("length", "8") + number(14, 1)),
                   "TensorProto.external_data");
  }
  expect_refused(with_tensor(described + number(14, 1)), "TensorProto.data_location");
  expect_refused(with_tensor(described), "does not match its shape");
}

TEST(OnnxCheck, Subgraphs) {
  const std::string body = graph_of({kAdd}).content();
  for (const char* op : {"Loop", "If", "Scan", "SequenceMap"}) {
    expect_refused(with_node(onnx_node(op, {"image"}, "restored", attribute(bytes(6, body), 5))),
                   std::string("the operator ") + op);
  }
  expect_refused(with_node(onnx_node("Add", {"image"}, "restored", attribute(bytes(6, body), 5))),
                 "AttributeProto.g ");
  expect_refused(with_node(onnx_node("Add", {"image"}, "restored", attribute(bytes(11, body), 10))),
                 "AttributeProto.graphs");
  for (const std::uint64_t type : {0U, 4U, 5U, 10U, 13U}) {
    expect_refused(with_node(onnx_node("Add", {"image"}, "restored", attribute("", type))),
                   "an attribute of type");
  }
}

TEST(OnnxCheck, ForeignContent) {
  const std::string good = onnx_model(graph_of({kAdd}).content());
  expect_refused(good + bytes(20, ""), "ModelProto.training_info");
  expect_refused(good + bytes(25, bytes(1, "f")), "ModelProto.functions");
  expect_refused(good + bytes(99, ""), "ModelProto.field 99");
  expect_refused(good + bytes(14, bytes(1, "ort_config")), "metadata called 'ort_config'");
  expect_refused(with_node(onnx_node("Gemm", {"image"}, "restored")), "the operator Gemm");
  expect_refused(with_node(kAdd + bytes(7, "com.microsoft")), "NodeProto.domain");
  const std::string graph = graph_of({kAdd}).content();
  expect_refused(onnx_model(graph + bytes(14, "")), "quantization_annotation");
  expect_refused(onnx_model(graph + bytes(15, "")), "sparse_initializer");
  const auto of_opset = [&](const std::string& opset) {
    return number(1, 8) + bytes(7, graph) + bytes(8, opset);
  };
  expect_refused(of_opset(bytes(1, "com.microsoft") + number(2, 17)), "'com.microsoft'");
  expect_refused(of_opset(number(2, 16)), "opset 16");
  expect_refused(of_opset(number(2, 24)), "opset 24");
  EXPECT_EQ(refusal(of_opset(number(2, 23))), "");
}

TEST(OnnxCheck, WeightsOfTheWrongSize) {
  const auto of = [](std::uint64_t type, const std::vector<std::uint64_t>& dims) {
    return with_tensor(onnx_tensor("w", type, dims, kTwoFloats));
  };
  EXPECT_EQ(refusal(of(1, {2})), "");
  EXPECT_EQ(refusal(of(7, {})), "");
  EXPECT_EQ(refusal(of(10, {2, 2})), "");
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 62U;
  for (const auto& dims :
       std::vector<std::vector<std::uint64_t>>{{},
                                               {3},
                                               {0},
                                               {1U << 31U, 1U << 31U},
                                               {kHuge, kHuge},
                                               {kHuge, 4},
                                               {2, ~std::uint64_t{0}},
                                               {0, kHuge},
                                               {~std::uint64_t{0}, ~std::uint64_t{1}}}) {
    expect_refused(of(1, dims), "damaged: the weight w: float32");
  }
  expect_refused(of(8, {1}), "a tensor of type 8");  // of strings
  expect_refused(of((std::uint64_t{1} << 32U) + 1, {2}), "a tensor of type 4294967297");
  expect_refused(with_tensor(onnx_tensor("w", 1, {0}, "")), "has 0 bytes");
  expect_refused(with_tensor(number(1, 1) + number(2, 1) + bytes(4, "wwww") + bytes(8, "w")),
                 "TensorProto.field 4");
}

TEST(OnnxCheck, InputsAndOutputs) {
  OnnxGraph graph = graph_of({kAdd});
  for (const std::uint64_t side : {1U, 9U, 18000U}) {
    graph.output = test::onnx_value("restored", test::kOnnxUint8, {1, side, side, 3});
    expect_refused(onnx_model(graph.content()),
                   "the graph's output is restored: uint8 1x" + std::to_string(side));
  }
  graph.output = test::onnx_value("other", test::kOnnxUint8, {1, 8, 8, 3});
  expect_refused(onnx_model(graph.content()), "the manifest says restored: uint8 1x8x8x3");
  graph.output = test::onnx_value("restored", test::kOnnxFloat, {1, 8, 8, 3});
  expect_refused(onnx_model(graph.content()), "float32 1x8x8x3, the manifest says ");
  graph = graph_of({kAdd});
  const auto with_side = [](const std::string& side) {
    return bytes(1, "image") + bytes(2, bytes(1, number(1, 2) + bytes(2, bytes(1, side))));
  };
  for (const std::string& open : {std::string(), bytes(2, "height")}) {
    graph.inputs[0] = with_side(open);
    expect_refused(onnx_model(graph.content()),
                   "the graph's input is image: uint8 ?, the manifest says ");
  }
  graph.inputs[0] = with_side(number(1, 8) + bytes(2, "height"));
  expect_refused(onnx_model(graph.content()), "has two values");
  graph.inputs[0] = graph_of({}).inputs[0] + bytes(4, "");
  expect_refused(onnx_model(graph.content()), "ValueInfoProto.field 4");
  graph = graph_of({kAdd});
  expect_refused(onnx_model(graph.content() + bytes(12, graph.output)), "output is restored: ");
  const std::string sequence = bytes(1, "image") + bytes(2, bytes(4, ""));
  graph.inputs[0] = sequence;
  expect_refused(onnx_model(graph.content()), "TypeProto.field 4");
}

// Libraries use the last of two, or a mixture of both.
TEST(OnnxCheck, DuplicateFields) {
  const std::string graph = graph_of({kAdd}).content();
  const std::string good = onnx_model(graph);
  expect_refused(number(1, 8) + bytes(7, graph) + bytes(7, graph), "ModelProto.graph at byte");
  expect_refused(good + bytes(8, number(2, 17)), "ModelProto.opset_import at byte");
  expect_refused(good + bytes(7, graph), "duplicated or out of order");
  expect_refused(with_node(kAdd + bytes(4, "Add")), "NodeProto.op_type at byte");
  expect_refused(with_node(bytes(3, "a") + bytes(3, "b") + bytes(4, "Add")), "NodeProto.name at");
  expect_refused(with_tensor(onnx_tensor("w", 1, {2}, kTwoFloats, bytes(9, kTwoFloats))),
                 "TensorProto.raw_data at byte");
}

TEST(OnnxCheck, DamagedProtocolBuffers) {
  const std::string good = onnx_model(graph_of({kAdd}).content());
  EXPECT_EQ(refusal(good), "");
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(refusal(good.substr(0, size)), "") << size;
  }
  const auto raw = [](std::initializer_list<int> ending) {
    std::string content;
    for (const int byte : ending) content += static_cast<char>(byte);
    return content;
  };
  expect_refused(raw({0x08}), "invalid number at byte 1");
  expect_refused(raw({0x08, 0x88, 0x00}), "invalid number at byte 1");  // 8, in two bytes
  expect_refused(raw({0x88, 0x00, 0x08}), "invalid number at byte 0");
  const std::string nine(9, '\x80');
  expect_refused(raw({0x08}) + nine + raw({0x02}), "invalid number at byte 1");  // 2^64
  expect_refused(raw({0x08}) + nine + raw({0x80, 0x01}), "invalid number at byte 1");
  expect_refused(raw({0x0d, 0, 0, 0, 0}), "ModelProto.ir_version has wire type 5");
  expect_refused(raw({0x0b}), "wire type 3");  // a group
  expect_refused(raw({0x07}), "ModelProto.field 0");
  expect_refused(raw({0x12, 0x7f, 'a'}), "a field of 127 bytes at byte 2, where 1 are left");
  expect_refused(raw({0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}),
                 "18446744073709551615 bytes");
  expect_refused("", "ModelProto has no graph");
  expect_refused(number(1, 8) + bytes(7, ""), "ModelProto has no opset_import");
  // A field that extends into the next message.
  expect_refused(onnx_model(bytes(1, bytes(1, "image") + raw({0x22, 0x05, 'A'}))),
                 "a field of 5 bytes at byte");
}

TEST(OnnxCheck, ErrorsAreOneLine) {
  const std::string odd = std::string("\n\x1b[31m\0\xff", 8) + std::string(1000, 'x');
  const std::string error = refusal(with_node(onnx_node(odd, {}, "restored")));
  EXPECT_NE(error.find("the operator ??[31m??xxx"), std::string::npos) << error;
  EXPECT_LT(error.size(), 200U);
}

// The limit of four million is a hundred times that of the largest graphs.
TEST(OnnxCheck, TooManyFields) {
  std::string ints;
  for (int i = 0; i < 4'000'000; ++i) ints += number(8, 1);
  expect_refused(with_node(onnx_node("Add", {}, "restored", attribute(ints, 7))),
                 "more than 4000000 fields");
}

class OnnxFile : public ::testing::Test {
 protected:
  std::string refusal_of(const fs::path& path) const {
    try {
      check_onnx_file(path, kEnds);
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "";
  }
  test::Folder folder_;
};

TEST_F(OnnxFile, ErrorsBeginWithThePath) {
  const fs::path path = folder_.path() / "a.onnx";
  test::write_file(path, onnx_model(graph_of({kAdd}).content()));
  EXPECT_EQ(refusal_of(path), "");
  test::write_file(path, "text");
  EXPECT_EQ(refusal_of(path).substr(0, path.string().size() + 2), path.string() + ": ");
  test::write_file(path, "");
  EXPECT_NE(refusal_of(path).find("is empty"), std::string::npos);
}

// ONNX Runtime would read it as another format.
TEST_F(OnnxFile, WrongExtension) {
  const fs::path path = folder_.path() / "a.ort";
  test::write_file(path, onnx_model(graph_of({kAdd}).content()));
  EXPECT_NE(refusal_of(path).find("must end in .onnx"), std::string::npos);
}

}  // namespace
}  // namespace elir::core
