// elir.h on top of the classes: arguments in, statuses out.
#include <elir/elir.h>

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "choice.hpp"
#include "embedded.hpp"
#include "guard.hpp"
#include "restorer.hpp"
#include "text.hpp"
#include "worker.hpp"

struct elir_restorer {
  elir_restorer(const char* bundle, const elir::core::OpenOptions& options, std::size_t capacity)
      : restorer(bundle, options), queue(capacity), worker(restorer, capacity) {
    for (const elir::core::Shape& shape : restorer.manifest().shapes) {
      shapes.push_back({static_cast<std::int32_t>(shape.batch),
                        static_cast<std::int32_t>(shape.height),
                        static_cast<std::int32_t>(shape.width)});
      largest_batch = std::max(largest_batch, shapes.back().batch);
    }
  }

  // In a child made by fork() no thread is left, and a lock that one held is locked for ever.
  bool is_own() const { return ::getpid() == process; }

  const pid_t process = ::getpid();
  elir::core::Restorer restorer;
  std::vector<elir_shape> shapes;
  std::int32_t largest_batch = 0;
  const std::size_t queue;
  elir::core::Worker worker;  // destroyed before the restorer it uses
};

namespace elir::core {
namespace {

constexpr int kMaxQueue = 1024;

void need(const void* pointer, const char* name) {
  if (pointer == nullptr) throw usage_error(name, " is NULL");
}

// Before any lock is taken.
void need_own(const elir_restorer* restorer) {
  need(restorer, "restorer");
  if (restorer->is_own()) return;
  throw usage_error("this restorer belongs to process ", restorer->process,
                    " and cannot be used in ", ::getpid(),
                    ", which was forked from it: create it after the fork");
}

void need_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw usage_error(name, " is ", value, ", expected ", least, " to ", most);
  }
}

elir_params defaults() {
  elir_params params{};
  params.struct_size = sizeof params;
  params.queue = 2;
  return params;
}

// Up to the last field of version 0.1: no header is older.
constexpr std::size_t kFirstParams = offsetof(elir_params, cache) + sizeof(elir_params::cache);
constexpr std::size_t kFirstDescription =
    offsetof(elir_description, output) + sizeof(elir_description::output);

// Into a struct of the caller's of `size` bytes, which may be another than this library's: what
// both know, and zeros behind.
template <typename Struct>
void hand_over(const Struct& made, Struct* given, std::size_t size) {
  const std::size_t known = std::min(size, sizeof made);
  std::memcpy(given, &made, known);
  std::memset(reinterpret_cast<char*>(given) + known, 0, size - known);
  std::memcpy(given, &size, std::min(known, sizeof size));  // struct_size, the first field
}

// From a struct of the caller's: what an older header lacks is at its default, what only a newer
// one has may not be used.
elir_params current(const elir_params* given) {
  elir_params params = defaults();
  if (given == nullptr) return params;
  const std::size_t size = given->struct_size;
  if (size < kFirstParams) {
    throw usage_error("elir_params.struct_size is ", size, ", expected at least ", kFirstParams,
                      ": start from elir_default_params()");
  }
  const char* const bytes = reinterpret_cast<const char*>(given);
  if (size > sizeof params &&
      std::any_of(bytes + sizeof params, bytes + size, [](char byte) { return byte != 0; })) {
    throw usage_error("elir_params has a field set that is newer than this libelir ", kVersion);
  }
  std::memcpy(&params, given, std::min(size, sizeof params));
  return params;
}

OpenOptions checked(const elir_params& params) {
  need_range("elir_params.fit", raw(params.fit), ELIR_FIT_DEFAULT, ELIR_FIT_TILE);
  need_range("elir_params.mode", raw(params.mode), ELIR_MODE_LATENCY, ELIR_MODE_THROUGHPUT);
  need_range("elir_params.threads", params.threads, 0, 65536);
  need_range("elir_params.device", params.device, 0, 65536);
  need_range("elir_params.queue", params.queue, 1, kMaxQueue);
  OpenOptions options;
  if (params.backend != nullptr) options.backend = params.backend;
  if (params.precision != nullptr) options.precision = params.precision;
  options.fit = params.fit;
  options.force = params.force != 0;
  options.trial = params.skip_trial == 0;
  options.setup.threads = params.threads;
  options.setup.device = params.device;
  options.setup.throughput = params.mode == ELIR_MODE_THROUGHPUT;
  if (params.cache != nullptr) options.setup.cache = params.cache;
  options.setup.log = {params.log, params.log_user};
  return options;
}

elir_tensor described(const TensorSpec& spec) {
  elir_tensor made{};
  made.name = spec.name.c_str();
  made.dtype = spec.dtype == Dtype::uint8 ? ELIR_UINT8 : ELIR_FLOAT32;
  made.layout = spec.layout == Layout::nhwc ? ELIR_NHWC : ELIR_NCHW;
  std::transform(std::begin(spec.shape), std::end(spec.shape), made.shape,
                 [](std::int64_t side) { return static_cast<std::int32_t>(side); });
  made.bytes = spec.bytes();
  return made;
}

void need_bytes(const char* what, std::size_t seen, const TensorSpec& spec) {
  if (seen != spec.bytes()) {
    throw usage_error("the ", what, " has ", seen, " bytes, expected ", spec.bytes(), " for ",
                      spec.end().describe(), spec.layout == Layout::nhwc ? " NHWC" : " NCHW");
  }
}

}  // namespace
}  // namespace elir::core

using namespace elir::core;  // NOLINT: this file is the C face of that namespace

const char* elir_version(void) { return kVersion; }

const char* elir_backends(void) {
  const char* found = "";
  static_cast<void>(guarded([&] {
    static const std::string names = joined(built_in(), ", ");
    found = names.c_str();
  }));
  return found;
}

const char* elir_last_error(void) { return last_error; }

const char* elir_status_name(elir_status status) {
  constexpr const char* kNames[] = {
      "ok",          "usage error", "bundle error",  "image error",
      "unavailable", "busy",        "out of memory", "internal error"};
  const auto number = static_cast<std::size_t>(raw(status));
  return number < std::size(kNames) ? kNames[number] : "unknown status";
}

void elir_init_params(elir_params* params, size_t struct_size) {
  if (params != nullptr) hand_over(defaults(), params, struct_size);
}

elir_status elir_create(const char* bundle, const elir_params* params, elir_restorer** restorer) {
  return guarded([&] {
    need(restorer, "restorer");
    *restorer = nullptr;
    need(bundle, "bundle");
    const elir_params given = current(params);
    *restorer = new elir_restorer(bundle, checked(given), static_cast<std::size_t>(given.queue));
  });
}

void elir_destroy(elir_restorer* restorer) {
  if (restorer == nullptr || !restorer->is_own()) return;
  // Whole until the last callback has returned, since a callback may call nearly everything.
  restorer->worker.stop();
  delete restorer;
}

elir_status elir_describe(const elir_restorer* restorer, elir_description* description) {
  return guarded([&] {
    need_own(restorer);
    need(description, "description");
    const std::size_t size = description->struct_size;
    if (size < kFirstDescription) {
      throw usage_error("elir_description.struct_size is ", size, ", expected at least ",
                        kFirstDescription);
    }
    const Restorer& own = restorer->restorer;
    const Manifest& manifest = own.manifest();
    const elir_description made = {sizeof made,
                                   manifest.task.c_str(),
                                   own.backend().c_str(),
                                   own.precision().c_str(),
                                   restorer->shapes.data(),
                                   static_cast<std::int32_t>(restorer->shapes.size()),
                                   restorer->largest_batch,
                                   manifest.upscale,
                                   own.fit(),
                                   manifest.faces ? 1 : 0,
                                   manifest.detector ? 1 : 0,
                                   manifest.random ? 1 : 0,
                                   static_cast<std::int32_t>(own.concurrency()),
                                   described(manifest.input()),
                                   described(manifest.output())};
    hand_over(made, description, size);
  });
}

elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                             int32_t* output_width, int32_t* output_height) {
  return guarded([&] {
    need_own(restorer);
    need(output_width, "output_width");
    need(output_height, "output_height");
    const int upscale = restorer->restorer.manifest().upscale;
    if (width < 1 || height < 1 || std::max(width, height) > INT32_MAX / upscale) {
      throw image_error("the input is ", width, "x", height, ", expected 1 to ",
                        INT32_MAX / upscale, " pixels on a side");
    }
    *output_width = width * upscale;
    *output_height = height * upscale;
  });
}

elir_status elir_restore(elir_restorer* restorer, const elir_image* input,
                         const elir_image* output) {
  return guarded([&] {
    need_own(restorer);
    need(input, "input");
    need(output, "output");
    restorer->restorer.check(*input, *output);
    restorer->restorer.restore(*input, *output);
  });
}

elir_status elir_restore_batch(elir_restorer* restorer, const elir_image* inputs,
                               const elir_image* outputs, size_t count) {
  return guarded([&] {
    need(restorer, "restorer");
    if (count > 0) need(inputs, "inputs");
    if (count > 0) need(outputs, "outputs");
    restorer->restorer.restore_all(inputs, outputs, count);
  });
}

elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                               const elir_image* output, elir_done_callback done, void* user) {
  return guarded([&] {
    need_own(restorer);
    need(input, "input");
    need(output, "output");
    if (done == nullptr) throw usage_error("done is NULL");
    restorer->restorer.check(*input, *output);
    if (!restorer->worker.submit({*input, *output, done, user})) {
      throw Failure(ELIR_ERROR_BUSY,
                    text("as many images wait as the queue of ", restorer->queue,
                         " holds, or the restorer is being destroyed: drop this one"));
    }
  });
}

elir_status elir_wait(elir_restorer* restorer) {
  return guarded([&] {
    need_own(restorer);
    if (restorer->worker.is_own_thread()) throw usage_error("elir_wait was called from a callback");
    restorer->worker.wait();
  });
}

elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes, void* output,
                     size_t output_bytes) {
  return guarded([&] {
    need_own(restorer);
    need(input, "input");
    need(output, "output");
    need_bytes("input", input_bytes, restorer->restorer.manifest().input());
    need_bytes("output", output_bytes, restorer->restorer.manifest().output());
    restorer->restorer.run(input, output);
  });
}
