// What is tried before a backend is taken, and what becomes of one that fails: on stand-ins, since
// no real backend fails when told.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <new>
#include <stdexcept>

#include "error.hpp"
#include "opening.hpp"
#include "png.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

using Act = std::function<void()>;

// Gives the picture that the bundle has for its first reference, once `before` lets it.
class StubSession final : public Session {
 public:
  StubSession(const Bundle& bundle, Act before, int& open)
      : before_(std::move(before)),
        open_(open),
        input_(bundle.manifest().input().bytes()),
        output_(bundle.manifest().output().bytes()) {
    if (reads_png()) {
      const Reference& reference = bundle.manifest().references.front();
      const std::size_t side = bundle.manifest().side();
      const auto picture = read_png(bundle.checked_file(reference.output), side);
      std::copy(picture.begin(), picture.end(), static_cast<std::uint8_t*>(output_.data()));
    }
    ++open_;
  }
  ~StubSession() override { --open_; }
  StubSession(const StubSession&) = delete;
  StubSession& operator=(const StubSession&) = delete;

  void* input() override { return input_.data(); }
  void* output() override { return output_.data(); }
  void run() override {
    if (before_) return before_();
    auto* const pixels = static_cast<std::uint8_t*>(output_.data());
    std::fill(pixels, pixels + 1000, std::uint8_t{0});  // without a `before`: not quite the picture
    std::fill(pixels + 1000, pixels + 100000, std::uint8_t{255});
  }
  std::optional<int> threads() const override { return 3; }

 private:
  Act before_;
  int& open_;
  Buffer input_;
  Buffer output_;
};

// In no table. Each precision runs or fails as told.
class StubBackend final : public Backend {
 public:
  StubBackend(const std::string& called, const std::vector<std::pair<std::string, Act>>& runs)
      : Backend({called, "onnx", {}, true}) {
    for (const auto& [precision, run] : runs) {
      precisions.push_back(precision);
      runs_[precision] = run;
    }
  }

  std::optional<std::string> available() const override { return std::nullopt; }
  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    std::vector<std::unique_ptr<Session>> made;
    for (int i = 0; i < (setup.throughput ? 3 : 1); ++i) {
      made.push_back(std::make_unique<StubSession>(bundle, runs_.at(precision), open_));
      ++opened_;
    }
    return made;
  }

  int open_sessions() const { return open_; }
  int opened() const { return opened_; }

 private:
  std::map<std::string, Act> runs_;
  mutable int open_ = 0;
  mutable int opened_ = 0;
};

void good() {}

template <typename Error>
Act failing(const Error& error) {
  return [error] { throw error; };
}

class OpeningTest : public ::testing::Test {
 protected:
  OpeningOptions among(const std::vector<const Backend*>& stubs) {
    OpeningOptions options;
    options.among = stubs;
    options.setup.log.user = &warned_;
    options.setup.log.callback = [](void* user, elir_log_level level, const char* message) {
      if (level == ELIR_LOG_WARNING) {
        static_cast<std::vector<std::string>*>(user)->push_back(message);
      }
    };
    return options;
  }

  Failure refused(const OpeningOptions& options) {
    try {
      open_runners(bundle_, options);
    } catch (const Failure& failure) {
      return failure;
    }
    return {ELIR_OK, "it opened"};
  }

  const Bundle bundle_{ELIR_TINY};
  std::vector<std::string> warned_;
};

struct Case {
  Act run;
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

// In float32, too, which is not less likely to lack memory.
TEST_F(OpeningTest, AutoGoesOnAfterAFirstRunThatFails) {
  for (const Case& each : cases()) {
    for (const bool throughput : {false, true}) {
      const StubBackend first("first", {{"fp32", each.run}});
      const StubBackend second("second", {{"fp32", good}});
      OpeningOptions options = among({&first, &second});
      options.setup.throughput = throughput;
      const Opened opened = open_runners(bundle_, options);
      EXPECT_EQ(opened.backend + " " + opened.precision, "second fp32");
      EXPECT_EQ(opened.runners.size(), throughput ? 3U : 1U);
      EXPECT_EQ(first.opened(), throughput ? 3 : 1);
      EXPECT_EQ(first.open_sessions(), 0);
      ASSERT_EQ(warned_.size(), 1U);
      EXPECT_EQ(warned_[0].find("first in fp32: " + each.reason), 0U) << warned_[0];
      EXPECT_NE(warned_[0].find("; using second in fp32"), std::string::npos) << warned_[0];
      warned_.clear();
    }
  }
}

TEST_F(OpeningTest, WhatWorksIsTriedOnceAndTakenWithoutAWord) {
  int runs = 0;
  const StubBackend first("first", {{"fp32", [&] { ++runs; }}});
  const StubBackend second("second", {{"fp32", good}});
  EXPECT_EQ(open_runners(bundle_, among({&first, &second})).backend, "first");
  EXPECT_EQ(runs, 1);
  OpeningOptions options = among({&first});
  options.trial = false;
  EXPECT_EQ(open_runners(bundle_, options).backend, "first");
  EXPECT_EQ(runs, 1) << "no trial was wanted";
  EXPECT_EQ(warned_.size(), 0U);
}

TEST_F(OpeningTest, OneWarningForAllThatFailed) {
  const Act gone = failing(unavailable_error("the device is gone"));
  const StubBackend first("first", {{"fp32", gone}, {"bf16", gone}});
  const StubBackend second("second", {{"fp32", failing(std::bad_alloc())}});
  const StubBackend third("third", {{"fp32", good}});
  open_runners(bundle_, among({&first, &second, &third}));
  EXPECT_EQ(warned_, std::vector<std::string>{
                         "first in fp32, first in bf16: the device is gone; second in fp32: out of "
                         "memory; using third in fp32"});
}

TEST_F(OpeningTest, EveryReasonIsToldWhereNothingWorks) {
  std::vector<std::unique_ptr<StubBackend>> stubs;
  std::vector<const Backend*> pointers;
  for (const Case& each : cases()) {
    const std::string name = "number" + std::to_string(stubs.size());
    stubs.push_back(
        std::make_unique<StubBackend>(name, std::vector{std::pair{std::string("fp32"), each.run}}));
    pointers.push_back(stubs.back().get());
  }
  const Failure failure = refused(among(pointers));
  EXPECT_EQ(failure.status(), ELIR_ERROR_UNAVAILABLE);
  for (std::size_t i = 0; i < stubs.size(); ++i) {
    const std::string told = "number" + std::to_string(i) + " in fp32: " + cases()[i].reason;
    EXPECT_NE(std::string(failure.what()).find(told), std::string::npos) << failure.what();
    EXPECT_EQ(stubs[i]->open_sessions(), 0);
  }
}

TEST_F(OpeningTest, ABundleThatNothingCanReadIsABundleError) {
  const Act damaged = failing(bundle_error("fused.fp32.onnx is damaged"));
  const StubBackend first("first", {{"fp32", damaged}});
  const StubBackend second("second", {{"fp32", damaged}});
  const Failure failure = refused(among({&first, &second}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_BUNDLE);
  EXPECT_STREQ(failure.what(), "first in fp32, second in fp32: fused.fp32.onnx is damaged");
}

TEST_F(OpeningTest, WhatEveryoneLacksMemoryForIsOutOfMemory) {
  const StubBackend first("first", {{"fp32", failing(std::bad_alloc())}});
  const StubBackend second("second", {{"fp32", failing(std::bad_alloc())}});
  const Failure failure = refused(among({&first, &second}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_MEMORY);
  EXPECT_STREQ(failure.what(), "first in fp32, second in fp32: out of memory");
}

TEST_F(OpeningTest, WhatWasNamedFailsWithItsOwnError) {
  const StubBackend first("first", {{"int8", failing(std::bad_alloc())}, {"fp32", good}});
  const StubBackend second("second", {{"int8", good}});
  OpeningOptions options = among({&first, &second});
  options.backend = "first";
  options.precision = "int8";
  EXPECT_THROW(open_runners(bundle_, options), std::bad_alloc);
  EXPECT_EQ(first.open_sessions(), 0);
  EXPECT_EQ(second.opened(), 0);
  EXPECT_EQ(warned_.size(), 0U);
}

TEST_F(OpeningTest, ANamedBackendGoesOnToItsNextPrecision) {
  const StubBackend first("first", {{"bf16", failing(std::bad_alloc())}, {"fp32", good}});
  const StubBackend second("second", {{"fp32", good}});
  OpeningOptions options = among({&first, &second});
  options.backend = "first";
  const Opened opened = open_runners(bundle_, options);
  EXPECT_EQ(opened.backend + " " + opened.precision, "first fp32");
  EXPECT_EQ(warned_, std::vector<std::string>{"first in bf16: out of memory; using first in fp32"});
}

// The packaged model's int8 loses much on pictures unlike photographs, and its bf16 does not.
TEST_F(OpeningTest, WhatIsNotAutomaticRunsOnlyWhereItIsNamed) {
  const StubBackend first("openvino", {{"int8", good}, {"bf16", good}, {"fp32", good}});
  OpeningOptions options = among({&first});
  EXPECT_EQ(open_runners(bundle_, options).precision, "bf16");
  options.backend = "openvino";
  EXPECT_EQ(open_runners(bundle_, options).precision, "bf16");
  options.precision = "int8";
  EXPECT_EQ(open_runners(bundle_, options).precision, "int8");
  options.backend = "auto";
  EXPECT_EQ(open_runners(bundle_, options).precision, "int8");
  const StubBackend alone("openvino", {{"int8", good}});
  const Failure failure = refused(among({&alone}));
  EXPECT_EQ(failure.status(), ELIR_ERROR_USAGE);
  EXPECT_NE(std::string(failure.what()).find("no precision that may run unasked (int8 loses much"),
            std::string::npos)
      << failure.what();
}

TEST_F(OpeningTest, PairsInNoTableComeLast) {
  const StubBackend foreign("npu", {{"bf16", good}, {"fp32", good}});
  const StubBackend known("onnxruntime", {{"fp32", good}, {"fp16", good}});
  std::vector<std::string> tried;
  for (const Candidate& each : candidates(bundle_, "", {&foreign, &known})) {
    tried.push_back(each.backend->name + " " + each.precision);
  }
  EXPECT_EQ(tried, (std::vector<std::string>{"onnxruntime fp32", "onnxruntime fp16", "npu bf16",
                                             "npu fp32"}));
}

}  // namespace
}  // namespace elir::core
