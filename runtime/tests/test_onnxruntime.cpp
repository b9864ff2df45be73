// Failures of the ONNX Runtime backend. This file replaces OrtGetApiBase, which returns the
// library's table of functions, and changes functions in the table.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <onnxruntime_c_api.h>

#include "backends/all.hpp"
#include "bundle.hpp"
#include "error.hpp"
#include "onnx_bytes.hpp"
#include "support.hpp"

namespace {

bool no_environment = false;
int sessions_created = 0;

const OrtApiBase& library() {
  using Function = const OrtApiBase* (*)();
  static const OrtApiBase* const base =
      reinterpret_cast<Function>(dlsym(RTLD_NEXT, "OrtGetApiBase"))();
  return *base;
}

const OrtApi* changed_api(std::uint32_t version) noexcept {
  static const OrtApi* const real = library().GetApi(version);
  static const OrtApi changed = [] {
    OrtApi table = *real;
    table.CreateEnv = [](OrtLoggingLevel level, const char* name, OrtEnv** env) noexcept {
      return no_environment ? real->CreateStatus(ORT_FAIL, "no threads")
                            : real->CreateEnv(level, name, env);
    };
    table.CreateSession = [](const OrtEnv* env, const ORTCHAR_T* path,
                             const OrtSessionOptions* options, OrtSession** out) noexcept {
      ++sessions_created;
      return real->CreateSession(env, path, options, out);
    };
    return table;
  }();
  return &changed;
}

}  // namespace

extern "C" const OrtApiBase* OrtGetApiBase() noexcept {
  static const OrtApiBase changed = {changed_api, library().GetVersionString};
  return &changed;
}

namespace elir::core {
namespace {

TEST(OnnxRuntime, StartFailuresAreNotBundleErrors) {
  const test::Folder folder;
  test::write_bundle(folder.path() / "b");
  const Bundle bundle((folder.path() / "b").string());
  no_environment = true;
  try {
    onnxruntime_backend().open(bundle, "fp32", {});
    FAIL() << "it started";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), ELIR_ERROR_UNAVAILABLE);
    EXPECT_STREQ(failure.what(), "onnxruntime does not start: no threads");
  }
  no_environment = false;
  EXPECT_EQ(onnxruntime_backend().open(bundle, "fp32", {}).size(), 1U)
      << "the next call tries again";
}

// ONNX Runtime would read the first weight from an address, and never return from the loop.
TEST(OnnxRuntime, DoesNotLoadForeignGraphs) {
  const auto end = [](const char* name) {
    return test::onnx_value(name, test::kOnnxUint8, {1, 32, 32, 3});
  };
  test::OnnxGraph graph{
      {test::onnx_node("Add", {"image", "w"}, "restored")}, {}, {end("image")}, end("restored")};
  const auto sessions_with = [](const test::OnnxGraph& content) {
    test::BundleOptions options;
    options.graph = test::onnx_model(content.content());
    const test::Folder folder;
    test::write_bundle(folder.path(), options);
    const int before = sessions_created;
    try {
      onnxruntime_backend().open(Bundle(folder.string()), "fp32", {});
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE) << failure.what();
    }
    return sessions_created - before;
  };
  graph.tensors = {test::onnx_tensor("w", test::kOnnxUint8, {1}, "w")};
  EXPECT_EQ(sessions_with(graph), 1) << "a valid graph";
  const auto entry = [](const char* key, const char* value) {
    return test::bytes(13, test::bytes(1, key) + test::bytes(2, value));
  };
  graph.tensors = {test::number(1, 1) + test::number(2, 2) + test::bytes(8, "w") +
                   entry("location", "*/_ORT_MEM_ADDR_/*") + entry("offset", "4096") +
                   entry("length", "1") + test::number(14, 1)};
  EXPECT_EQ(sessions_with(graph), 0);
  const std::string body = test::bytes(
      5, test::bytes(1, "body") + test::bytes(6, graph.content()) + test::number(20, 5));
  graph.tensors.clear();
  graph.nodes = {test::onnx_node("Loop", {"", "", "image"}, "restored", body)};
  EXPECT_EQ(sessions_with(graph), 0);
}

}  // namespace
}  // namespace elir::core
