// Which images and tiles run together.
#include <gtest/gtest.h>

#include <future>

#include "backends/all.hpp"
#include "error.hpp"
#include "restorer.hpp"
#include "support.hpp"
#include "worker.hpp"

namespace elir::core {
namespace {

using Runs = std::vector<std::pair<std::int64_t, std::int64_t>>;  // width and batch

constexpr std::uint8_t kBad = 211;  // a run with an image that begins with this byte fails
Runs runs;

// The batches that a session runs.
enum class Batches { none, largest, any };

class RecordedTensors final : public Tensors {
 public:
  RecordedTensors(Tensors& inner, const Shape& shape) : inner_(inner), shape_(shape) {}
  void* input() override { return inner_.input(); }
  void* noise() override { return inner_.noise(); }
  void* output() override { return inner_.output(); }
  void run() override {
    runs.emplace_back(shape_.padded_width, shape_.batch);
    for (std::int64_t i = 0; i < shape_.batch; ++i) {
      const std::int64_t begin = i * 3 * shape_.padded_height * shape_.padded_width;
      if (static_cast<std::uint8_t*>(input())[begin] == kBad) throw unavailable_error("bad");
    }
    inner_.run();
  }

 private:
  Tensors& inner_;
  Shape shape_;
};

class RecordedSession final : public Session {
 public:
  RecordedSession(std::unique_ptr<Session> inner, Batches batches)
      : inner_(std::move(inner)), batches_(batches) {}
  bool any_batch() const override { return batches_ == Batches::any; }
  bool exact_batches() const override { return batches_ != Batches::none; }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    return std::make_unique<RecordedTensors>(inner_->tensors(shape), shape);
  }

  std::unique_ptr<Session> inner_;
  Batches batches_;
};

class RecordedBackend final : public Backend {
 public:
  explicit RecordedBackend(Batches batches)
      : Backend({"recorded", "onnx", {"fp32"}, true}), batches_(batches) {}

  std::optional<std::string> available() const override { return std::nullopt; }
  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    std::vector<std::unique_ptr<Session>> sessions;
    for (auto& session : reference_backend().open(bundle, precision, setup)) {
      sessions.push_back(std::make_unique<RecordedSession>(std::move(session), batches_));
    }
    return sessions;
  }

 private:
  Batches batches_;
};

class GroupsTest : public ::testing::TestWithParam<Batches> {
 protected:
  GroupsTest() {
    test::BundleOptions bundle;
    bundle.shapes = R"([{"batch": 3, "height": 32, "width": 32},
                        {"batch": 2, "height": 28, "width": 60, "padded_height": 32,
                         "padded_width": 64}])";
    bundle.noise_stride = 8;
    test::write_bundle(folder_.path() / "b", bundle);
    OpenOptions options;
    options.backend = "recorded";
    options.precision = "fp32";
    options.among = {&backend_};
    restorer_ = std::make_unique<Restorer>((folder_.path() / "b").string(), options);
    runs.clear();
  }

  // Pictures of the given widths, 30 pixels high, the results of each alone, and empty outputs.
  void prepare(const std::vector<int>& widths) {
    for (const int width : widths) {
      sources_.push_back(test::pattern(static_cast<std::size_t>(width), 30, sources_.size()));
      expected_.emplace_back(sources_.back().size());
      results_.emplace_back(sources_.back().size());
    }
    for (std::size_t i = 0; i < widths.size(); ++i) {
      inputs_.push_back(test::image_of(sources_[i], widths[i], 30));
      outputs_.push_back(test::image_of(results_[i], widths[i], 30));
      restorer_->restore(inputs_[i], test::image_of(expected_[i], widths[i], 30));
    }
    runs.clear();
  }

  static const Runs& pick(const Runs& none, const Runs& largest, const Runs& any) {
    return GetParam() == Batches::none ? none : GetParam() == Batches::largest ? largest : any;
  }

  const RecordedBackend backend_{GetParam()};
  test::Folder folder_;
  std::unique_ptr<Restorer> restorer_;
  std::vector<std::vector<std::uint8_t>> sources_;
  std::vector<std::vector<std::uint8_t>> expected_;
  std::vector<std::vector<std::uint8_t>> results_;
  std::vector<elir_image> inputs_;
  std::vector<elir_image> outputs_;
};

TEST_P(GroupsTest, ConsecutiveImagesOfOneShape) {
  // One run each, but for the last, which is six tiles.
  prepare({32, 20, 31, 9, 64, 50, 63, 32, 30, 300});
  restorer_->restore_batch(inputs_.data(), outputs_.data(), inputs_.size());
  EXPECT_EQ(results_, expected_);
  const Runs none = {{32, 1}, {32, 1}, {32, 1}, {32, 1}, {64, 1}, {64, 1}, {64, 1}, {32, 1},
                     {32, 1}, {64, 1}, {64, 1}, {64, 1}, {64, 1}, {64, 1}, {64, 1}};
  const Runs any = {{32, 3}, {32, 1}, {64, 2}, {64, 1}, {32, 2}, {64, 2}, {64, 2}, {64, 2}};
  const Runs largest = {{32, 3}, {32, 1}, {64, 2}, {64, 1}, {32, 1},
                        {32, 1}, {64, 2}, {64, 2}, {64, 2}};
  EXPECT_EQ(runs, pick(none, largest, any));
}

TEST_P(GroupsTest, ABadImageFailsAlone) {
  prepare({32, 32, 32, 32});
  sources_[1][0] = kBad;
  try {
    restorer_->restore_batch(inputs_.data(), outputs_.data(), inputs_.size());
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_STREQ(failure.what(), "image 1: bad");
  }
  for (const std::size_t i : {0U, 2U, 3U}) EXPECT_EQ(results_[i], expected_[i]) << i;
  // The images of a failed group run once more, alone.
  const Runs batches = {{32, 3}, {32, 1}, {32, 1}, {32, 1}, {32, 1}};
  EXPECT_EQ(runs, pick(Runs(4, {32, 1}), batches, batches));
}

// The queue runs what is waiting, and does not wait for more.
TEST_P(GroupsTest, WaitingImages) {
  prepare({32, 32, 32, 32, 64, 64});
  sources_[2][0] = kBad;
  struct State {
    std::promise<void> begun;
    std::promise<void> go_on;
    std::vector<elir_status> statuses;
  } state;
  Worker worker(*restorer_, 8);
  const auto wait = [](void* user, elir_status, const char*) {
    static_cast<State*>(user)->begun.set_value();
    static_cast<State*>(user)->go_on.get_future().wait();
  };
  const auto done = [](void* user, elir_status status, const char*) {
    static_cast<State*>(user)->statuses.push_back(status);
  };
  ASSERT_TRUE(worker.submit({inputs_[0], outputs_[0], wait, &state}));
  state.begun.get_future().wait();
  for (std::size_t i = 1; i < inputs_.size(); ++i) {
    ASSERT_TRUE(worker.submit({inputs_[i], outputs_[i], done, &state}));
  }
  state.go_on.set_value();
  worker.wait();
  const auto failed = ELIR_ERROR_UNAVAILABLE;
  EXPECT_EQ(state.statuses, (std::vector<elir_status>{ELIR_OK, failed, ELIR_OK, ELIR_OK, ELIR_OK}));
  const Runs none = {{32, 1}, {32, 1}, {32, 1}, {32, 1}, {64, 1}, {64, 1}};
  const Runs batches = {{32, 1}, {32, 3}, {32, 1}, {32, 1}, {32, 1}, {64, 2}};
  EXPECT_EQ(runs, pick(none, batches, batches));
  results_[2] = expected_[2];
  EXPECT_EQ(results_, expected_);
}

INSTANTIATE_TEST_SUITE_P(Sessions, GroupsTest,
                         ::testing::Values(Batches::none, Batches::largest, Batches::any),
                         [](const auto& test_case) {
                           return test_case.param == Batches::none      ? "None"
                                  : test_case.param == Batches::largest ? "Largest"
                                                                        : "Any";
                         });

}  // namespace
}  // namespace elir::core
