// The choice of a backend and its accuracy check, on stub backends that fail on request.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <stdexcept>

#include "error.hpp"
#include "golden.hpp"
#include "opening.hpp"
#include "png.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

// Gets the output, a byte per value.
using Action = std::function<void(std::uint8_t*)>;

// Returns the bundle's reference output after calling `before`, or a wrong picture without a
// `before`.
class StubTensors final : public HostTensors {
 public:
  StubTensors(const Bundle& bundle, const Shape& shape, const Action& before)
      : HostTensors(bundle.manifest().stages, shape), before_(before) {
    if (!reads_png()) return;
    const Reference& reference = bundle.manifest().references.front();
    const auto picture =
        read_png(bundle.checked_file(reference.output), static_cast<std::size_t>(shape.width),
                 static_cast<std::size_t>(shape.height));
    std::copy(picture.begin(), picture.end(), static_cast<std::uint8_t*>(output()));
  }

  void run() override {
    auto* const pixels = static_cast<std::uint8_t*>(output());
    if (before_) return before_(pixels);
    std::fill(pixels, pixels + 1000, std::uint8_t{0});
    std::fill(pixels + 1000, pixels + 100000, std::uint8_t{255});
  }

 private:
  const Action& before_;
};

class StubSession final : public Session {
 public:
  StubSession(const Bundle& bundle, Action before, int& open)
      : bundle_(bundle), before_(std::move(before)), open_(open) {
    ++open_;
  }
  ~StubSession() override { --open_; }
  StubSession(const StubSession&) = delete;
  StubSession& operator=(const StubSession&) = delete;

  std::optional<int> threads() const override { return 3; }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    return std::make_unique<StubTensors>(bundle_, shape, before_);
  }

  const Bundle& bundle_;
  Action before_;
  int& open_;
};

// Not in the order of "auto". Runs the given action for each precision.
class StubBackend final : public Backend {
 public:
  StubBackend(const std::string& backend_name,
              const std::vector<std::pair<std::string, Action>>& runs)
      : Backend({backend_name, "onnx", {}, true}) {
    for (const auto& [precision, run] : runs) {
      precisions.push_back(precision);
      runs_[precision] = run;
    }
  }

  std::optional<std::string> available() const override { return std::nullopt; }
  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < (setup.throughput ? 3 : 1); ++i) {
      sessions.push_back(std::make_unique<StubSession>(bundle, runs_.at(precision), open_));
      ++opened_;
    }
    return sessions;
  }

  int open_sessions() const { return open_; }
  int opened() const { return opened_; }

 private:
  std::map<std::string, Action> runs_;
  mutable int open_ = 0;
  mutable int opened_ = 0;
};

void good(std::uint8_t* /*output*/) {}

template <typename Error>
Action failing(const Error& error) {
  return [error](std::uint8_t*) { throw error; };
}

class OpeningTest : public ::testing::Test {
 protected:
  OpeningOptions among(const std::vector<const Backend*>& stubs) {
    OpeningOptions options;
    options.among = stubs;
    options.setup.log.user = &warnings_;
    options.setup.log.callback = [](void* user, elir_log_level level, const char* message) {
      if (level == ELIR_LOG_WARNING) {
        static_cast<std::vector<std::string>*>(user)->push_back(message);
      }
    };
    return options;
  }

  Failure failure_of(const OpeningOptions& options) {
    try {
      open_sessions(bundle_, options);
    } catch (const Failure& failure) {
      return failure;
    }
    return {ELIR_OK, "it opened"};
  }

  const Bundle bundle_{ELIR_TINY};
  std::vector<std::string> warnings_;
};

struct Case {
  Action run;
  std::string reason;
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {failing(unavailable_error("no cuDNN")), "no cuDNN"},
      {failing(std::bad_alloc()), "out of memory"},
      {failing(std::runtime_error("CUDA error 2:\n out of memory")), "CUDA error 2: out of memory"},
      {failing(bundle_error("this release cannot read it")), "this release cannot read it"},
  };
  if (reads_png()) all.push_back({nullptr, "wrong on this machine: "});
  return all;
}

TEST_F(OpeningTest, AutoContinuesAfterAFailedCheck) {
  for (const Case& each : cases()) {
    for (const bool throughput : {false, true}) {
      const StubBackend first("first", {{"fp32", each.run}});
      const StubBackend second("second", {{"fp32", good}});
      OpeningOptions options = among({&first, &second});
      options.setup.throughput = throughput;
      const Opened opened = open_sessions(bundle_, options);
      EXPECT_EQ(opened.backend + " " + opened.precision, "second fp32");
      EXPECT_EQ(opened.sessions.size(), throughput ? 3U : 1U);
      EXPECT_EQ(first.opened(), throughput ? 3 : 1);
      EXPECT_EQ(first.open_sessions(), 0);
      ASSERT_EQ(warnings_.size(), 1U);
      EXPECT_EQ(warnings_[0].find("first in fp32: " + each.reason), 0U) << warnings_[0];
      EXPECT_NE(warnings_[0].find("; using second in fp32"), std::string::npos) << warnings_[0];
      warnings_.clear();
    }
  }
}

TEST_F(OpeningTest, ASuccessfulCheckRunsOnceWithoutWarnings) {
  int runs = 0;
  const StubBackend first("first", {{"fp32", [&](std::uint8_t*) { ++runs; }}});
  const StubBackend second("second", {{"fp32", good}});
  EXPECT_EQ(open_sessions(bundle_, among({&first, &second})).backend, "first");
  EXPECT_EQ(runs, 1);
  OpeningOptions options = among({&first});
  options.check_accuracy = false;
  EXPECT_EQ(open_sessions(bundle_, options).backend, "first");
  EXPECT_EQ(runs, 1) << "the check was skipped";
  EXPECT_EQ(warnings_.size(), 0U);
}

// Far below the 87 dB of its verification, but no eye sees it.
TEST_F(OpeningTest, FiftyDecibelsAreSufficient) {
  if (!reads_png()) GTEST_SKIP() << "built without libpng";
  const Shape& shape = bundle_.manifest().shapes.front();
  const auto values = static_cast<std::size_t>(3 * shape.width * shape.height);
  std::uint8_t flipped = 0;
  const auto flip = [&](std::uint8_t* output) {
    for (std::size_t i = 0; i < values; ++i) output[i] ^= flipped;
  };
  const StubBackend first("first", {{"fp32", flip}});
  const StubBackend second("second", {{"fp32", good}});
  flipped = 1;  // every value is off by 1: 48.1 dB
  EXPECT_EQ(open_sessions(bundle_, among({&first, &second})).backend, "first");
  flipped = 2;  // by 2: 42.1 dB, less than 50 with the tolerance of 3
  EXPECT_EQ(open_sessions(bundle_, among({&first, &second})).backend, "second");
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_NE(warnings_[0].find("42.1 dB"), std::string::npos) << warnings_[0];
}

TEST_F(OpeningTest, OneWarningForAllThatFailed) {
  const Action gone = failing(unavailable_error("the device is gone"));
  const StubBackend first("first", {{"fp32", gone}, {"bf16", gone}});
  const StubBackend second("second", {{"fp32", failing(std::bad_alloc())}});
  const StubBackend third("third", {{"fp32", good}});
  open_sessions(bundle_, among({&first, &second, &third}));
  EXPECT_EQ(warnings_,
            std::vector<std::string>{
                "first in fp32, first in bf16: the device is gone; second in fp32: out of "
                "memory; using third in fp32"});
}

TEST_F(OpeningTest, TheErrorHasEveryReason) {
  std::vector<std::unique_ptr<StubBackend>> stubs;
  std::vector<const Backend*> pointers;
  for (const Case& each : cases()) {
    const std::string name = "number" + std::to_string(stubs.size());
    stubs.push_back(
        std::make_unique<StubBackend>(name, std::vector{std::pair{std::string("fp32"), each.run}}));
    pointers.push_back(stubs.back().get());
  }
  const Failure failure = failure_of(among(pointers));
  EXPECT_EQ(failure.status(), ELIR_ERROR_UNAVAILABLE);
  for (std::size_t i = 0; i < stubs.size(); ++i) {
    const std::string reason = "number" + std::to_string(i) + " in fp32: " + cases()[i].reason;
    EXPECT_NE(std::string(failure.what()).find(reason), std::string::npos) << failure.what();
    EXPECT_EQ(stubs[i]->open_sessions(), 0);
  }
}

TEST_F(OpeningTest, ABundleThatNoBackendReadsIsABundleError) {
  const Action damaged = failing(bundle_error("fused.fp32.onnx is damaged"));
  const StubBackend first("first", {{"fp32", damaged}});
  const StubBackend second("second", {{"fp32", damaged}});
  const Failure failure = failure_of(among({&first, &second}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
  EXPECT_STREQ(failure.what(), "first in fp32, second in fp32: fused.fp32.onnx is damaged");
}

TEST_F(OpeningTest, OutOfMemoryWithAllCandidates) {
  const StubBackend first("first", {{"fp32", failing(std::bad_alloc())}});
  const StubBackend second("second", {{"fp32", failing(std::bad_alloc())}});
  const Failure failure = failure_of(among({&first, &second}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_MEMORY);
  EXPECT_STREQ(failure.what(), "first in fp32, second in fp32: out of memory");
}

TEST_F(OpeningTest, ANamedPrecisionFailsWithItsError) {
  const StubBackend first("first", {{"int8", failing(std::bad_alloc())}, {"fp32", good}});
  const StubBackend second("second", {{"int8", good}});
  OpeningOptions options = among({&first, &second});
  options.backend = "first";
  options.precision = "int8";
  EXPECT_THROW(open_sessions(bundle_, options), std::bad_alloc);
  EXPECT_EQ(first.open_sessions(), 0);
  EXPECT_EQ(second.opened(), 0);
  EXPECT_EQ(warnings_.size(), 0U);
}

TEST_F(OpeningTest, ANamedBackendContinuesWithItsNextPrecision) {
  const StubBackend first("first", {{"bf16", failing(std::bad_alloc())}, {"fp32", good}});
  const StubBackend second("second", {{"fp32", good}});
  OpeningOptions options = among({&first, &second});
  options.backend = "first";
  const Opened opened = open_sessions(bundle_, options);
  EXPECT_EQ(opened.backend + " " + opened.precision, "first fp32");
  EXPECT_EQ(warnings_,
            std::vector<std::string>{"first in bf16: out of memory; using first in fp32"});
}

// The packaged model's int8 is not automatic, its bf16 is.
TEST_F(OpeningTest, PrecisionsThatAreNotAutomaticMustBeNamed) {
  const StubBackend first("openvino", {{"int8", good}, {"bf16", good}, {"fp32", good}});
  OpeningOptions options = among({&first});
  EXPECT_EQ(open_sessions(bundle_, options).precision, "bf16");
  options.backend = "openvino";
  EXPECT_EQ(open_sessions(bundle_, options).precision, "bf16");
  options.precision = "int8";
  EXPECT_EQ(open_sessions(bundle_, options).precision, "int8");
  options.backend = "auto";
  EXPECT_EQ(open_sessions(bundle_, options).precision, "int8");
  const StubBackend alone("openvino", {{"int8", good}});
  const Failure failure = failure_of(among({&alone}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_USAGE);
  EXPECT_NE(std::string(failure.what()).find("no automatic precision (int8 loses quality"),
            std::string::npos)
      << failure.what();
}

// A missing PSNR means identical pixels, unless the outputs were not finite.
TEST_F(OpeningTest, ReasonsOfAFailedVerificationWithoutAPsnr) {
  for (const bool finite : {true, false}) {
    const test::Folder folder;
    test::write_bundle(folder.path());
    const auto file = folder.path() / "bundle.json";
    test::Golden manifest = test::Golden::parse(std::ifstream(file));
    test::Golden& result = manifest["verification"]["fp32"];
    result["passed"] = false;
    result["psnr_db"] = nullptr;
    if (!finite) result["max_error"] = nullptr;
    test::write_file(file, manifest.dump());
    const StubBackend backend("openvino", {{"fp32", good}});
    try {
      precisions_to_try(backend, Bundle(folder.string()), "");
      FAIL() << "expected an error";
    } catch (const Failure& failure) {
      const std::string reason = finite ? "is identical" : "gives numbers that are not finite";
      EXPECT_NE(std::string(failure.what()).find("(fp32 " + reason + ", its floor is 60 dB)"),
                std::string::npos)
          << failure.what();
    }
  }
}

TEST_F(OpeningTest, PairsThatAreNotInTheOrderComeLast) {
  const StubBackend foreign("npu", {{"bf16", good}, {"fp32", good}});
  const StubBackend known("onnxruntime", {{"fp32", good}, {"fp16", good}});
  std::vector<std::string> tried;
  for (const Candidate& each : candidates(bundle_, "", {&foreign, &known})) {
    tried.push_back(each.backend->name + " " + each.precision);
  }
  EXPECT_EQ(tried, (std::vector<std::string>{"onnxruntime fp32", "onnxruntime fp16", "npu bf16",
                                             "npu fp32"}));
}

TEST_F(OpeningTest, DetectorsRunOnTheBackendsOfTheirFilesInTheOrder) {
  const StubBackend foreign("npu", {{"fp32", good}});
  const StubBackend cpu("onnxruntime", {{"fp32", good}});
  const StubBackend other("openvino", {{"fp32", good}});
  const StubBackend cuda("onnxruntime-cuda", {{"fp32", good}});
  const auto names = [&](const std::string& first, const std::string& kind) {
    Detector detector{};
    detector.artifacts.resize(1);
    detector.artifacts[0].kind = kind;
    std::vector<std::string> all;
    for (const Backend* each : detector_backends(first, detector, {&cpu, &foreign, &cuda, &other}))
      all.push_back(each->name);
    return all;
  };
  EXPECT_EQ(names("npu", "onnx"),
            (std::vector<std::string>{"npu", "onnxruntime-cuda", "openvino", "onnxruntime"}));
  EXPECT_EQ(names("onnxruntime", "onnx"),
            (std::vector<std::string>{"onnxruntime", "onnxruntime-cuda", "openvino"}));
  EXPECT_EQ(names("npu", "tensorrt"), std::vector<std::string>{"npu"});
}

}  // namespace
}  // namespace elir::core
