#include "worker.hpp"

#include <algorithm>

#include "guard.hpp"

namespace elir::core {
namespace {

thread_local const Worker* own_worker = nullptr;

}  // namespace

Worker::Worker(Restorer& restorer, std::size_t capacity)
    : restorer_(restorer), ring_(capacity), running_(restorer.concurrency(), kIdle) {}

Worker::~Worker() { stop(); }

bool Worker::submit(const Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || accepted_ - begun_ == ring_.size()) return false;
    if (threads_.empty()) start();
    ring_[accepted_ % ring_.size()] = job;
    ++accepted_;
  }
  given_.notify_one();
  return true;
}

void Worker::start() {
  threads_.reserve(running_.size());
  try {
    for (std::size_t i = 0; i < running_.size(); ++i) {
      threads_.emplace_back([this, i] { work(i); });
    }
  } catch (...) {  // fewer do the same work
    if (threads_.empty()) throw;
  }
}

void Worker::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this, last = accepted_] { return finished(last); });
}

bool Worker::is_own_thread() const { return own_worker == this; }

void Worker::work(std::size_t thread) {
  own_worker = this;
  std::unique_lock lock(mutex_);
  while (true) {
    given_.wait(lock, [this] { return stopping_ || begun_ < accepted_; });
    if (begun_ == accepted_) return;
    const Job job = ring_[begun_ % ring_.size()];
    running_[thread] = begun_++;
    lock.unlock();
    const elir_status status = guarded([&] { restorer_.restore(job.input, job.output); });
    job.done(job.user, status, status == ELIR_OK ? "" : last_error);
    lock.lock();
    running_[thread] = kIdle;
    done_.notify_all();
  }
}

// Whether every image before `ticket` is done.
bool Worker::finished(std::uint64_t ticket) const {
  return begun_ >= ticket && std::all_of(running_.begin(), running_.end(), [&](std::uint64_t own) {
           return own == kIdle || own >= ticket;
         });
}

void Worker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  given_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace elir::core
