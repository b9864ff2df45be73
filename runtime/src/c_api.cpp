// elir.h on top of the classes: arguments in, statuses out.
#include <elir/elir.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "choice.hpp"
#include "embedded.hpp"
#include "guard.hpp"
#include "restorer.hpp"
#include "text.hpp"
#include "worker.hpp"

struct elir_restorer {
  elir_restorer(const char* bundle, const elir::core::Wishes& wishes, std::size_t capacity)
      : restorer(bundle, wishes), queue(capacity) {}

  // Made with the first image, so that who never uses it has no threads.
  elir::core::Worker& worker() {
    const std::lock_guard lock(making);
    if (!made) made = std::make_unique<elir::core::Worker>(restorer, queue);
    return *made;
  }
  elir::core::Worker* worker_if_made() {
    const std::lock_guard lock(making);
    return made.get();
  }

  elir::core::Restorer restorer;
  const std::size_t queue;
  std::mutex making;
  std::unique_ptr<elir::core::Worker> made;  // destroyed before the restorer it uses
};

namespace elir::core {
namespace {

constexpr int kMaxQueue = 1024;

void need(const void* pointer, const char* name) {
  if (pointer == nullptr) throw usage_error(text(name, " is NULL"));
}

void need_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw usage_error(text(name, " is ", value, ", wanted ", least, " to ", most));
  }
}

// What an enum of the caller's holds, which may be none of its values.
template <typename Enum>
int raw(const Enum& value) {
  static_assert(sizeof value == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof number);
  return number;
}

// A struct of the caller's, who may have an older or a newer header than this library.
elir_params current(const elir_params* given) {
  elir_params params = elir_default_params();
  if (given == nullptr) return params;
  if (given->struct_size < sizeof params) {
    throw usage_error(text("elir_params.struct_size is ", given->struct_size, ", wanted at least ",
                           sizeof params, ": start from elir_default_params()"));
  }
  std::memcpy(&params, given, sizeof params);
  return params;
}

Wishes checked(const elir_params& params) {
  need_range("elir_params.fit", raw(params.fit), ELIR_FIT_DEFAULT, ELIR_FIT_TILE);
  need_range("elir_params.mode", raw(params.mode), ELIR_MODE_LATENCY, ELIR_MODE_THROUGHPUT);
  need_range("elir_params.threads", params.threads, 0, 65536);
  need_range("elir_params.device", params.device, 0, 65536);
  need_range("elir_params.queue", params.queue, 1, kMaxQueue);
  Wishes wishes;
  if (params.backend != nullptr) wishes.backend = params.backend;
  if (params.precision != nullptr) wishes.precision = params.precision;
  wishes.fit = params.fit;
  wishes.force = params.force != 0;
  wishes.trial = params.skip_trial == 0;
  wishes.setup.threads = params.threads;
  wishes.setup.device = params.device;
  wishes.setup.throughput = params.mode == ELIR_MODE_THROUGHPUT;
  if (params.cache != nullptr) wishes.setup.cache = params.cache;
  wishes.setup.log = {params.log, params.log_user};
  return wishes;
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
    throw usage_error(text("the ", what, " has ", seen, " bytes, wanted ", spec.bytes(), " for ",
                           spec.describe()));
  }
}

}  // namespace
}  // namespace elir::core

using namespace elir::core;  // NOLINT: this file is the C face of that namespace

const char* elir_version(void) { return kVersion; }

const char* elir_backends(void) {
  static const std::string names = joined(built_in(), ", ");
  return names.c_str();
}

const char* elir_last_error(void) { return last_error(); }

const char* elir_status_name(elir_status status) {
  switch (status) {
    case ELIR_OK:
      return "ok";
    case ELIR_ERROR_USAGE:
      return "usage error";
    case ELIR_ERROR_BUNDLE:
      return "bundle error";
    case ELIR_ERROR_IMAGE:
      return "image error";
    case ELIR_ERROR_UNAVAILABLE:
      return "unavailable";
    case ELIR_ERROR_BUSY:
      return "busy";
    case ELIR_ERROR_MEMORY:
      return "out of memory";
    case ELIR_ERROR_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

elir_params elir_default_params(void) {
  elir_params params{};
  params.struct_size = sizeof params;
  params.queue = 2;
  return params;
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

void elir_destroy(elir_restorer* restorer) { delete restorer; }

elir_status elir_describe(const elir_restorer* restorer, elir_description* description) {
  return guarded([&] {
    need(restorer, "restorer");
    need(description, "description");
    const std::size_t size = description->struct_size;
    if (size < sizeof(elir_description)) {
      throw usage_error(text("elir_description.struct_size is ", size, ", wanted at least ",
                             sizeof(elir_description)));
    }
    const Restorer& own = restorer->restorer;
    const Manifest& manifest = own.manifest();
    *description = {size,
                    manifest.task.c_str(),
                    own.backend().c_str(),
                    own.precision().c_str(),
                    manifest.image_size,
                    manifest.upscale,
                    own.fit(),
                    manifest.faces ? 1 : 0,
                    manifest.random ? 1 : 0,
                    static_cast<std::int32_t>(own.at_once()),
                    described(manifest.input),
                    described(manifest.output)};
  });
}

elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                             int32_t* output_width, int32_t* output_height) {
  return guarded([&] {
    need(restorer, "restorer");
    need(output_width, "output_width");
    need(output_height, "output_height");
    const int upscale = restorer->restorer.manifest().upscale;
    if (width < 1 || height < 1 || std::max(width, height) > INT32_MAX / upscale) {
      throw image_error(text("the input is ", width, "x", height, ", wanted 1 to ",
                             INT32_MAX / upscale, " pixels on a side"));
    }
    *output_width = width * upscale;
    *output_height = height * upscale;
  });
}

elir_status elir_restore(elir_restorer* restorer, const elir_image* input,
                         const elir_image* output) {
  return guarded([&] {
    need(restorer, "restorer");
    need(input, "input");
    need(output, "output");
    restorer->restorer.check(*input, *output);
    restorer->restorer.restore(*input, *output);
  });
}

elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                               const elir_image* output, elir_done_callback done, void* user) {
  return guarded([&] {
    need(restorer, "restorer");
    need(input, "input");
    need(output, "output");
    if (done == nullptr) throw usage_error("done is NULL");
    restorer->restorer.check(*input, *output);
    if (!restorer->worker().submit({*input, *output, done, user})) {
      throw Failure(ELIR_ERROR_BUSY, text("as many images wait as the queue of ", restorer->queue,
                                          " holds: drop this one, or call elir_wait"));
    }
  });
}

elir_status elir_wait(elir_restorer* restorer) {
  return guarded([&] {
    need(restorer, "restorer");
    Worker* worker = restorer->worker_if_made();
    if (worker == nullptr) return;
    if (worker->is_own_thread()) throw usage_error("elir_wait was called from a callback");
    worker->wait();
  });
}

elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes, void* output,
                     size_t output_bytes) {
  return guarded([&] {
    need(restorer, "restorer");
    need(input, "input");
    need(output, "output");
    need_bytes("input", input_bytes, restorer->restorer.manifest().input);
    need_bytes("output", output_bytes, restorer->restorer.manifest().output);
    restorer->restorer.run(input, output);
  });
}
