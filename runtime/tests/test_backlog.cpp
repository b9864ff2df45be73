// Simulated sources: which frames are dropped does not depend on the machine.
#include "backlog.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

namespace elir::gstreamer {
namespace {

constexpr std::int64_t kFrame = 1000;  // the duration of a frame, which is the unit below
constexpr int kFrames = 2000;

struct Simulation {
  const char* name;
  double takes;        // to restore a frame
  double produces;     // the source, to deliver a frame, during which the element waits
  double delay;        // from a frame's time until it is due
  double shift;        // added to the delay after about half of the frames
  double jitter;       // added to the delay of every third frame
  int least_restored;  // of kFrames
  int most_restored;
  double most_latency;  // from when a frame was due until it was restored
  bool durations = true;
};

void PrintTo(const Simulation& simulation, std::ostream* stream) { *stream << simulation.name; }

std::int64_t scaled(double frames) { return static_cast<std::int64_t>(frames * kFrame); }

struct Outcome {
  int restored = 0;
  std::int64_t most_latency = 0;
};

Outcome simulate(const Simulation& simulation, int shifted) {
  Backlog backlog;
  Outcome outcome;
  std::int64_t idle = 0;
  for (int i = 0; i < kFrames; ++i) {
    const std::int64_t time = i * kFrame;
    const std::int64_t due = time + scaled(simulation.delay) +
                             (i < shifted ? 0 : scaled(simulation.shift)) +
                             (i % 3 == 1 ? scaled(simulation.jitter) : 0);
    const std::int64_t now = std::max(due, idle + scaled(simulation.produces));
    idle = now;
    if (!backlog.arrive(time, simulation.durations ? kFrame : 0, now)) {
      idle += scaled(simulation.takes);
      outcome.most_latency = std::max(outcome.most_latency, idle - due);
      ++outcome.restored;
    }
    backlog.finish(idle);
  }
  return outcome;
}

class BacklogTest : public ::testing::TestWithParam<Simulation> {};

TEST_P(BacklogTest, RestoresFreshFrames) {
  const Simulation& simulation = GetParam();
  for (int i = 0; i < 7; ++i) {
    const Outcome outcome = simulate(simulation, kFrames / 2 + i);
    EXPECT_GE(outcome.restored, simulation.least_restored) << i;
    EXPECT_LE(outcome.restored, simulation.most_restored) << i;
    EXPECT_LE(outcome.most_latency, scaled(simulation.most_latency)) << i;
  }
}

// The latency is what a frame takes, at most a frame of waiting, and twice what the source takes.
INSTANTIATE_TEST_SUITE_P(
    Sources, BacklogTest,
    ::testing::Values(Simulation{"KeepsPace", 0.9, 0, 0, 0, 0, 2000, 2000, 0.9},
                      Simulation{"KeepsPaceLate", 0.9, 0, 15, 0, 0, 2000, 2000, 0.9},
                      Simulation{"KeepsPaceWithJitter", 0.5, 0, 2, 0, 0.8, 2000, 2000, 1.3},
                      Simulation{"BecomesLater", 0.5, 0, 0, 15, 0, 2000, 2000, 0.5},
                      Simulation{"BecomesEarlier", 0.5, 0, 15, -15, 0, 1980, 2000, 16},
                      Simulation{"TwiceTooFast", 2, 0, 0, 0, 0, 1000, 1000, 3},
                      Simulation{"TwiceTooFastWithoutDurations", 2, 0, 0, 0, 0, 1000, 1000, 3,
                                 false},
                      Simulation{"TwiceTooFastLate", 2, 0, 15, 0, 0, 1000, 1000, 3},
                      Simulation{"TwiceTooFastWithJitter", 2, 0, 1, 0, 0.4, 900, 1000, 3.5},
                      Simulation{"TwiceTooFastBecomesLater", 2, 0, 0, 15, 0, 980, 1000, 3},
                      Simulation{"TooFastBecomesLater", 2.5, 0, 0, 15, 0, 780, 801, 3.5},
                      Simulation{"SlightlyTooFast", 1.05, 0, 0, 0, 0, 1890, 1910, 2.1},
                      Simulation{"SlowSource", 2, 0.3, 0, 0, 0, 700, 701, 3.6},
                      Simulation{"SlowerSource", 10, 0.6, 0, 0, 0, 79, 82, 12.2},
                      Simulation{"VerySlowSource", 3, 0.9, 0, 0, 0, 64, 68, 5.8},
                      Simulation{"TensOfFrames", 69, 0, 0, 0, 0, 29, 29, 70}),
    [](const auto& each) { return each.param.name; });

TEST(BacklogTest, ForgetsEverythingAtReset) {
  Backlog backlog;
  EXPECT_FALSE(backlog.arrive(0, 10, 0));
  backlog.finish(100);
  EXPECT_EQ(backlog.arrive(10, 10, 100), 80);
  backlog.reset();
  EXPECT_FALSE(backlog.arrive(10, 10, 100));
}

TEST(LatencyTest, CoversWhatFramesTake) {
  Latency latency;
  EXPECT_FALSE(latency.add(900, 100));  // the first one allocates
  EXPECT_TRUE(latency.add(40, 100));
  EXPECT_EQ(latency.value(), 60);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(latency.add(i % 2 == 0 ? 80 : 20, 100));
  int changes = 0;
  for (int i = 0; i < 100; ++i) changes += latency.add(200, 100) ? 1 : 0;
  EXPECT_LE(changes, 4);
  EXPECT_GE(latency.value(), 200 + 100);  // it does not keep pace: a frame may wait for another
  EXPECT_LE(latency.value(), 300 + 100);
  const std::int64_t before = latency.value();
  latency.expect_new_size();
  EXPECT_FALSE(latency.add(5000, 100));
  EXPECT_FALSE(latency.add(10, 100));
  EXPECT_EQ(latency.value(), before);
}

}  // namespace
}  // namespace elir::gstreamer
