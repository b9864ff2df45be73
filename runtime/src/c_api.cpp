// Implements elir.h with the C++ classes.
#include <elir/elir.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "c_api.hpp"
#include "choice.hpp"
#include "embedded.hpp"
#include "guard.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

constexpr int kMaxQueue = 1024;

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw usage_error(name, " is ", value, ", expected ", least, " to ", most);
  }
}

elir_params defaults() {
  elir_params params{};
  params.struct_size = sizeof params;
  params.queue = 2;
  params.sigma_s = -1;
  params.seed = -1;
  params.tile_overlap = -1;
  params.strength = 1;
  return params;
}

// Sizes up to the last field of version 0.1, the oldest header.
constexpr std::size_t kFirstParams = offsetof(elir_params, cache) + sizeof(elir_params::cache);
constexpr std::size_t kFirstDescription =
    offsetof(elir_description, output) + sizeof(elir_description::output);

// Copies to a caller's struct of `size` bytes, which may differ from this library's: the fields
// that both know, then zeros.
template <typename Struct>
void write_struct(const Struct& source, Struct* target, std::size_t size) {
  const std::size_t known = std::min(size, sizeof source);
  std::memcpy(target, &source, known);
  std::memset(reinterpret_cast<char*>(target) + known, 0, size - known);
  std::memcpy(target, &size, std::min(known, sizeof size));  // struct_size, the first field
}

// Reads a caller's struct: fields that an older header lacks have their defaults; fields that only
// a newer one has must not be set.
elir_params read_params(const elir_params* source) {
  elir_params params = defaults();
  if (source == nullptr) return params;
  const std::size_t size = source->struct_size;
  if (size < kFirstParams) {
    throw usage_error("elir_params.struct_size is ", size, ", expected at least ", kFirstParams,
                      ": start from elir_default_params()");
  }
  const char* const bytes = reinterpret_cast<const char*>(source);
  if (size > sizeof params &&
      std::any_of(bytes + sizeof params, bytes + size, [](char byte) { return byte != 0; })) {
    throw usage_error("elir_params sets a field that this libelir ", kVersion,
                      " does not know: upgrade libelir");
  }
  std::memcpy(&params, source, std::min(size, sizeof params));
  return params;
}

OpenOptions read_options(const elir_params& params) {
  check_range("elir_params.fit", raw(params.fit), ELIR_FIT_DEFAULT, ELIR_FIT_TILE);
  check_range("elir_params.mode", raw(params.mode), ELIR_MODE_LATENCY, ELIR_MODE_THROUGHPUT);
  check_range("elir_params.threads", params.threads, 0, 65536);
  check_range("elir_params.device", params.device, 0, 65536);
  check_range("elir_params.queue", params.queue, 1, kMaxQueue);
  OpenOptions options;
  if (params.backend != nullptr) options.backend = params.backend;
  if (params.precision != nullptr) options.precision = params.precision;
  options.fit = params.fit;
  options.force = params.force != 0;
  options.check_accuracy = params.skip_accuracy_check == 0;
  options.setup.threads = params.threads;
  options.setup.device = params.device;
  if (params.device_name != nullptr) options.setup.device_name = in_capitals(params.device_name);
  if (params.device != 0 && !options.setup.device_name.empty()) {
    throw usage_error("elir_params.device is ", params.device, " and device_name ",
                      options.setup.device_name, ": set one of them");
  }
  options.setup.throughput = params.mode == ELIR_MODE_THROUGHPUT;
  if (params.cache != nullptr) options.setup.cache = params.cache;
  if (params.sigma_s != -1) options.sigma_s = params.sigma_s;
  if (params.seed != -1) options.seed = params.seed;
  check_range("elir_params.tile_overlap", params.tile_overlap, -1, INT32_MAX);
  if (params.tile_overlap != -1) {
    options.tile_overlap = static_cast<std::size_t>(params.tile_overlap);
  }
  options.strength = Strength(params.strength);
  options.setup.log = {params.log, params.log_user};
  return options;
}

elir_tensor tensor_of(const TensorSpec& spec, const Shape& shape) {
  elir_tensor tensor{};
  tensor.name = spec.name.c_str();
  tensor.dtype = spec.dtype == Dtype::uint8 ? ELIR_UINT8 : ELIR_FLOAT32;
  tensor.layout = spec.layout == Layout::nhwc ? ELIR_NHWC : ELIR_NCHW;
  const auto sides = spec.sides(shape);
  std::transform(sides.begin(), sides.end(), tensor.shape,
                 [](std::int64_t side) { return static_cast<std::int32_t>(side); });
  tensor.bytes = spec.bytes(shape);
  return tensor;
}

void check_bytes(const char* what, std::size_t actual, const TensorSpec& spec, const Shape& shape) {
  if (actual != spec.bytes(shape)) {
    throw usage_error("the ", what, " has ", actual, " bytes, expected ", spec.bytes(shape),
                      " for ", spec.end(shape).describe(),
                      spec.layout == Layout::nhwc ? " NHWC" : " NCHW");
  }
}

}  // namespace
}  // namespace elir::core

using namespace elir::core;  // NOLINT: this file implements the C API

const char* elir_version(void) { return kVersion; }

const char* elir_backends(void) {
  const char* list = "";
  static_cast<void>(guarded([&] {
    static const std::string names = joined(built_in(), ", ");
    list = names.c_str();
  }));
  return list;
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
  if (params != nullptr) write_struct(defaults(), params, struct_size);
}

elir_status elir_create(const char* bundle, const elir_params* params, elir_restorer** restorer) {
  return guarded([&] {
    check_not_null(restorer, "restorer");
    *restorer = nullptr;
    check_not_null(bundle, "bundle");
    const elir_params read = read_params(params);
    check_range("elir_params.long_side", read.long_side, 0, 4096);
    *restorer = new elir_restorer(bundle, read_options(read), static_cast<std::size_t>(read.queue),
                                  read.long_side);
  });
}

void elir_destroy(elir_restorer* restorer) {
  if (restorer == nullptr || !restorer->in_its_process()) return;
  // Callbacks may use the restorer until the worker has stopped.
  restorer->worker.stop();
  delete restorer;
}

elir_status elir_describe(const elir_restorer* restorer, elir_description* description) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(description, "description");
    const std::size_t size = description->struct_size;
    if (size < kFirstDescription) {
      throw usage_error("elir_description.struct_size is ", size, ", expected at least ",
                        kFirstDescription);
    }
    const Restorer& source = restorer->restorer;
    const Manifest& manifest = source.manifest();
    const elir_description result = {sizeof result,
                                     manifest.task.c_str(),
                                     source.backend().c_str(),
                                     source.precision().c_str(),
                                     restorer->shapes.data(),
                                     static_cast<std::int32_t>(restorer->shapes.size()),
                                     restorer->largest_batch,
                                     manifest.upscale,
                                     source.fit(),
                                     manifest.faces ? 1 : 0,
                                     manifest.detector ? 1 : 0,
                                     manifest.random ? 1 : 0,
                                     static_cast<std::int32_t>(source.concurrency()),
                                     tensor_of(manifest.input(), manifest.shapes.front()),
                                     tensor_of(manifest.output(), manifest.shapes.front())};
    write_struct(result, description, size);
  });
}

elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                             int32_t* output_width, int32_t* output_height) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(output_width, "output_width");
    check_not_null(output_height, "output_height");
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
    check_restorer(restorer);
    check_not_null(input, "input");
    check_not_null(output, "output");
    restorer->restorer.check(*input, *output);
    restorer->restorer.restore(*input, *output);
  });
}

elir_status elir_restore_batch(elir_restorer* restorer, const elir_image* inputs,
                               const elir_image* outputs, size_t count) {
  return guarded([&] {
    check_restorer(restorer);
    if (count > 0) check_not_null(inputs, "inputs");
    if (count > 0) check_not_null(outputs, "outputs");
    restorer->restorer.restore_batch(inputs, outputs, count);
  });
}

elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                               const elir_image* output, elir_done_callback done, void* user) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(input, "input");
    check_not_null(output, "output");
    restorer->restorer.check(*input, *output);
    submit(*restorer, {*input, *output, done, user, {}});
  });
}

elir_status elir_wait(elir_restorer* restorer) {
  return guarded([&] {
    check_restorer(restorer);
    if (restorer->worker.is_worker_thread())
      throw usage_error("elir_wait was called from a callback");
    restorer->worker.wait();
  });
}

elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes, void* output,
                     size_t output_bytes) {
  return guarded([&] {
    check_restorer(restorer);
    check_not_null(input, "input");
    check_not_null(output, "output");
    const Manifest& manifest = restorer->restorer.manifest();
    check_bytes("input", input_bytes, manifest.input(), manifest.shapes.front());
    check_bytes("output", output_bytes, manifest.output(), manifest.shapes.front());
    restorer->restorer.run(input, output);
  });
}
