// Lends sessions to one thread each.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "pixel_session.hpp"

namespace elir::core {

class Pool {
 public:
  explicit Pool(std::vector<std::unique_ptr<PixelSession>> sessions)
      : sessions_(std::move(sessions)) {
    for (const auto& session : sessions_) idle_.push_back(session.get());
  }

  std::size_t size() const { return sessions_.size(); }

  // A session, lent or not.
  const PixelSession& first() const { return *sessions_.front(); }

  // Returns a session to the pool.
  struct Return {
    Pool* pool;
    void operator()(PixelSession* session) const {
      {
        const std::lock_guard lock(pool->mutex_);
        pool->idle_.push_back(session);  // does not allocate
      }
      pool->changed_.notify_one();
    }
  };
  // Waits for an idle session and lends it for the lifetime of the pointer.
  std::unique_ptr<PixelSession, Return> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !idle_.empty(); });
    PixelSession* session = idle_.back();
    idle_.pop_back();
    return {session, {this}};
  }

 private:
  std::vector<std::unique_ptr<PixelSession>> sessions_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<PixelSession*> idle_;
};

}  // namespace elir::core
