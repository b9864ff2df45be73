// The ONNX Runtime backend where the library does not start. Its functions are a table that the
// library hands out; here it comes through this file, which may put another function in it.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <onnxruntime_c_api.h>

#include "backends/all.hpp"
#include "bundle.hpp"
#include "error.hpp"
#include "support.hpp"

namespace {

bool no_environment = false;

const OrtApiBase& library() {
  using Function = const OrtApiBase* (*)();
  static const OrtApiBase* const found =
      reinterpret_cast<Function>(dlsym(RTLD_NEXT, "OrtGetApiBase"))();
  return *found;
}

const OrtApi* changed_api(std::uint32_t version) noexcept {
  static const OrtApi* const real = library().GetApi(version);
  static const OrtApi changed = [] {
    OrtApi made = *real;
    made.CreateEnv = [](OrtLoggingLevel level, const char* name, OrtEnv** env) noexcept {
      return no_environment ? real->CreateStatus(ORT_FAIL, "no threads")
                            : real->CreateEnv(level, name, env);
    };
    return made;
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

TEST(OnnxRuntime, ALibraryThatDoesNotStartIsNoDamagedFile) {
  const test::Folder folder;
  test::write_adding_bundle(folder.path() / "b");
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
  EXPECT_EQ(onnxruntime_backend().open(bundle, "fp32", {}).size(), 1U) << "it is tried again";
}

}  // namespace
}  // namespace elir::core
