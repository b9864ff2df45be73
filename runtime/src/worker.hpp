// The threads behind elir_restore_async and elir_restore_photo_async.
#pragma once

#include <elir/elir.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "restorer.hpp"

namespace elir::core {

class Worker {
 public:
  // Starts `restorer.concurrency()` threads with the first image. Up to `capacity` images may wait.
  Worker(Restorer& restorer, std::size_t capacity);

  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  struct Job {
    elir_image input;
    elir_image output;
    elir_done_callback done;
    void* user;
    std::function<void()> photo = {};  // restores a photograph; empty: `input` is an image
  };

  // Returns false if the queue is full, or after stop().
  bool submit(Job job);

  // Waits until all images accepted before the call are done.
  void wait();

  // Whether the calling thread is one of the worker's.
  bool is_worker_thread() const;

  // Accepts no more images, waits for those accepted, and ends the threads.
  void stop();

 private:
  static constexpr std::uint64_t kIdle = UINT64_MAX;

  // Images that a thread restores in one run, or one photograph; as many as may wait, so that
  // nothing is allocated.
  struct Group {
    explicit Group(std::size_t size) : jobs(size), inputs(size), outputs(size) {}
    std::size_t count = 0;
    std::vector<Job> jobs;
    std::vector<elir_image> inputs;
    std::vector<elir_image> outputs;
  };

  void start();
  void work(std::size_t thread);
  void take(Group& group);
  void restore(Group& group);
  bool finished(std::uint64_t ticket) const;

  Restorer& restorer_;
  mutable std::mutex mutex_;
  std::condition_variable submitted_;
  std::condition_variable finished_;
  std::vector<Job> ring_;  // waiting images: tickets begun_ to accepted_ - 1
  std::uint64_t accepted_ = 0;
  std::uint64_t begun_ = 0;
  std::vector<std::uint64_t> running_;  // the first ticket that each thread works on, or kIdle
  std::vector<Group> groups_;           // of each thread
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace elir::core
