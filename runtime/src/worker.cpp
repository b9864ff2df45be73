#include "worker.hpp"

#include <algorithm>

#include "guard.hpp"

namespace elir::core {
namespace {

thread_local const Worker* current_worker = nullptr;

}  // namespace

Worker::Worker(Restorer& restorer, std::size_t capacity)
    : restorer_(restorer),
      ring_(capacity),
      running_(restorer.concurrency(), kIdle),
      groups_(restorer.concurrency(), Group(capacity)) {}

Worker::~Worker() { stop(); }

bool Worker::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || accepted_ - begun_ == ring_.size()) return false;
    if (threads_.empty()) start();
    ring_[accepted_ % ring_.size()] = std::move(job);
    ++accepted_;
  }
  submitted_.notify_one();
  return true;
}

void Worker::start() {
  threads_.reserve(running_.size());
  try {
    for (std::size_t i = 0; i < running_.size(); ++i) {
      threads_.emplace_back([this, i] { work(i); });
    }
  } catch (...) {  // fewer threads do the same work
    if (threads_.empty()) throw;
  }
}

void Worker::wait() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this, last = accepted_] { return finished(last); });
}

bool Worker::is_worker_thread() const { return current_worker == this; }

void Worker::work(std::size_t thread) {
  current_worker = this;
  Group& group = groups_[thread];
  std::unique_lock lock(mutex_);
  while (true) {
    submitted_.wait(lock, [this] { return stopping_ || begun_ < accepted_; });
    if (begun_ == accepted_) return;
    running_[thread] = begun_;
    take(group);
    begun_ += group.count;
    lock.unlock();
    restore(group);
    lock.lock();
    running_[thread] = kIdle;
    finished_.notify_all();
  }
}

// Moves the next job that waits, and the images that fit into a batch with it, to a group.
void Worker::take(Group& group) {
  const auto waiting = [&](std::size_t i) -> Job& { return ring_[(begun_ + i) % ring_.size()]; };
  std::size_t images = 0;
  while (begun_ + images < accepted_ && !waiting(images).photo) ++images;
  group.count = images == 0 ? 1 : restorer_.group_size(images, [&](std::size_t i) -> ImagePair {
    return {waiting(i).input, waiting(i).output};
  });
  for (std::size_t i = 0; i < group.count; ++i) {
    group.jobs[i] = std::move(waiting(i));
    group.inputs[i] = group.jobs[i].input;
    group.outputs[i] = group.jobs[i].output;
  }
}

void Worker::restore(Group& group) {
  const auto done = [&](std::size_t i, const std::exception_ptr& error) {
    const elir_status status = guarded([&] {
      if (error) std::rethrow_exception(error);
    });
    const Job& job = group.jobs[i];
    job.done(job.user, status, status == ELIR_OK ? "" : last_error);
  };
  if (!group.jobs.front().photo) {
    restorer_.restore_group(group.inputs.data(), group.outputs.data(), group.count, done);
    return;
  }
  std::exception_ptr error;
  try {
    group.jobs.front().photo();
  } catch (...) {
    error = std::current_exception();
  }
  done(0, error);
  group.jobs.front().photo = nullptr;
}

// Whether every image before `ticket` is done.
bool Worker::finished(std::uint64_t ticket) const {
  return begun_ >= ticket &&
         std::all_of(running_.begin(), running_.end(),
                     [&](std::uint64_t running) { return running == kIdle || running >= ticket; });
}

void Worker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  submitted_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace elir::core
