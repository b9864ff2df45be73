// Runners lent to one thread each.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "runner.hpp"

namespace elir::core {

class Pool {
 public:
  explicit Pool(std::vector<std::unique_ptr<Runner>> runners) : runners_(std::move(runners)) {
    for (const auto& runner : runners_) idle_.push_back(runner.get());
  }

  std::size_t size() const { return runners_.size(); }

  // One runner, this thread's while the loan lives.
  struct GiveBack {
    Pool* pool;
    void operator()(Runner* runner) const {
      {
        const std::lock_guard lock(pool->mutex_);
        pool->idle_.push_back(runner);  // within the capacity it had
      }
      pool->changed_.notify_one();
    }
  };
  std::unique_ptr<Runner, GiveBack> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !idle_.empty(); });
    Runner* runner = idle_.back();
    idle_.pop_back();
    return {runner, {this}};
  }

 private:
  std::vector<std::unique_ptr<Runner>> runners_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Runner*> idle_;
};

}  // namespace elir::core
