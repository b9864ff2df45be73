// What the files that implement elir.h share.
#pragma once

#include <elir/elir.h>

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "error.hpp"
#include "photo/restoring.hpp"
#include "restorer.hpp"
#include "text.hpp"
#include "worker.hpp"

struct elir_restorer {
  elir_restorer(const char* bundle, const elir::core::OpenOptions& options, std::size_t capacity,
                std::int64_t long_side)
      : restorer(bundle, options),
        photos(restorer, options.setup, long_side),
        queue(capacity),
        worker(restorer, capacity) {
    for (const elir::core::Shape& shape : restorer.manifest().shapes) {
      shapes.push_back({static_cast<std::int32_t>(shape.batch),
                        static_cast<std::int32_t>(shape.height),
                        static_cast<std::int32_t>(shape.width)});
      largest_batch = std::max(largest_batch, shapes.back().batch);
    }
  }

  // False in a child created by fork(), which has no threads and perhaps locks that stay locked.
  bool in_its_process() const { return ::getpid() == process; }

  const pid_t process = ::getpid();
  elir::core::Restorer restorer;
  elir::core::PhotoRestorer photos;
  std::vector<elir_shape> shapes;
  std::int32_t largest_batch = 0;
  const std::size_t queue;
  elir::core::Worker worker;  // destroyed before the restorer it uses
};

namespace elir::core {

inline void check_not_null(const void* pointer, const char* name) {
  if (pointer == nullptr) throw usage_error(name, " is NULL");
}

// Must be called before any lock.
inline void check_restorer(const elir_restorer* restorer) {
  check_not_null(restorer, "restorer");
  if (restorer->in_its_process()) return;
  throw usage_error("this restorer belongs to process ", restorer->process,
                    " and cannot be used in its child ", ::getpid(),
                    ": create restorers after the fork");
}

// Throws if the job has no callback, or the queue is full.
inline void submit(elir_restorer& restorer, Worker::Job job) {
  if (job.done == nullptr) throw usage_error("done is NULL");
  if (restorer.worker.submit(std::move(job))) return;
  throw Failure(ELIR_ERROR_BUSY,
                text("the queue of ", restorer.queue,
                     " images is full, or the restorer is being destroyed: drop this image"));
}

}  // namespace elir::core
