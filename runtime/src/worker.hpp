// The threads behind elir_restore_async.
#pragma once

#include <elir/elir.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "restorer.hpp"

namespace elir::core {

class Worker {
 public:
  // As many threads as `restorer` restores at once, from the first image on, and `capacity` images
  // that may wait.
  Worker(Restorer& restorer, std::size_t capacity);

  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  struct Job {
    elir_image input;
    elir_image output;
    elir_done_callback done;
    void* user;
  };

  // False where the queue is full, or after stop().
  bool submit(const Job& job);

  // Until all that was accepted before is done.
  void wait();

  // Whether the calling thread is one of these.
  bool is_own_thread() const;

  // Waits for what was accepted, accepts nothing more, and ends the threads.
  void stop();

 private:
  static constexpr std::uint64_t kIdle = UINT64_MAX;

  void start();
  void work(std::size_t thread);
  bool finished(std::uint64_t ticket) const;

  Restorer& restorer_;
  mutable std::mutex mutex_;
  std::condition_variable given_;
  std::condition_variable done_;
  std::vector<Job> ring_;  // of the images that wait: tickets begun_ to accepted_ - 1
  std::uint64_t accepted_ = 0;
  std::uint64_t begun_ = 0;
  std::vector<std::uint64_t> running_;  // the ticket of each thread, or kIdle
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace elir::core
