// The sessions of TensorRT and TensorRT-RTX.
//
// A run copies image and noise to the device, enqueues every engine, and copies the result back,
// all on one stream; tensors between engines stay on the device. Each shape and batch has its own
// execution contexts, and its second run is captured as a CUDA graph, which further runs launch.
// Images that are in device memory are copied there, by rows; then the graph has the engines alone.
#pragma once

#include "nvinfer.hpp"

#include <algorithm>

#include "../backend.hpp"
#include "cuda_images.hpp"

namespace elir::core {
namespace {

// Whether engines have an optimisation profile for each shape.
bool has_profiles(const Manifest& manifest) {
  return manifest.shapes.size() > 1 || manifest.shapes.front().batch > 1;
}

// The error of a call that returned null or false.
Failure failed_call(const char* call, const std::string& name) {
  return unavailable_error(installed(), ": ", call, " of ", name,
                           " failed: ", summarize(engine_log().take()));
}
Failure failed_call(const char* call, const Stage& stage) { return failed_call(call, stage.name); }

// Destroyed in reverse order.
struct Engine {
  std::shared_ptr<nvinfer1::IRuntime> runtime;
  std::shared_ptr<nvinfer1::ICudaEngine> engine;
};

// Only TensorRT-RTX can tell in advance whether its work can be captured.
template <typename Context, typename = void>
struct HasIsStreamCapturable : std::false_type {};
template <typename Context>
struct HasIsStreamCapturable<Context,
                             std::void_t<decltype(std::declval<Context&>().isStreamCapturable(
                                 std::declval<cudaStream_t>()))>> : std::true_type {};

template <typename Context>
bool is_capturable(Context& context, cudaStream_t stream) {
  if constexpr (HasIsStreamCapturable<Context>::value) return context.isStreamCapturable(stream);
  return true;
}

// What the tensors of a session share.
struct Work {
  Work(int number, const Manifest& bundle, std::vector<Engine> loaded, const Log& messages)
      : device(number),
        manifest(bundle),
        log(messages),
        engines(std::move(loaded)),
        stream(new_stream()),
        event(new_event()) {
    for (const Engine& each : engines) bytes = std::max(bytes, working_bytes(*each.engine));
    if (bytes > 0) memory = device_memory(bytes);
  }

  const int device;
  const Manifest& manifest;
  const Log log;
  std::vector<Engine> engines;
  Stream stream;
  Event event;  // when the work of callers is done
  std::size_t bytes = 0;
  DeviceMemory memory;      // in use while one of the engines runs
  std::string device_lost;  // error message; empty: not lost
};

// A tensor on the device, and its page-locked copy.
struct DeviceTensor {
  PinnedMemory host;
  DeviceMemory device;
  std::size_t bytes = 0;
};

DeviceTensor device_tensor(std::size_t bytes) {
  return {pinned_memory(bytes), device_memory(bytes), bytes};
}

void queue_copy(const DeviceTensor& tensor, cudaMemcpyKind direction, cudaStream_t stream) {
  const bool in = direction == cudaMemcpyHostToDevice;
  check_cuda(cudaMemcpyAsync(in ? tensor.device.get() : tensor.host.get(),
                             in ? tensor.host.get() : tensor.device.get(), tensor.bytes, direction,
                             stream),
             "cudaMemcpyAsync");
}

// Calls `queue`, which queues work, and waits for it. After an error, says whether the device still
// responds.
template <typename Queue>
void run_and_wait(Work& work, const Queue& queue) {
  if (!work.device_lost.empty()) throw unavailable_error(work.device_lost);
  const CurrentDevice current(work.device);  // this thread may be new
  cudaStream_t const stream = work.stream.get();
  try {
    queue();
    check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  } catch (const Failure& failure) {
    // No queued work may still access the buffers.
    const cudaError_t error = cudaStreamSynchronize(stream);
    if (error == cudaSuccess) {
      if (failure.status() == ELIR_ERROR_IMAGE) throw;
      throw unavailable_error(failure.what(), "; the session remains usable");
    }
    // CUDA repeats errors that it cannot recover from.
    const std::string reason = error_message("cudaStreamSynchronize", error);
    work.device_lost =
        text("CUDA device ", work.device, " is lost (", reason, "): restart the process");
    static_cast<void>(cudaGetLastError());
    throw unavailable_error(failure.what(), "; ", work.device_lost);
  } catch (...) {
    static_cast<void>(cudaStreamSynchronize(stream));
    throw;
  }
}

class TensorRtTensors final : public Tensors {
 public:
  TensorRtTensors(std::shared_ptr<Work> work, const Shape& shape)
      : work_(std::move(work)), shape_(shape) {
    const Manifest& manifest = work_->manifest;
    input_ = device_tensor(manifest.input().bytes(shape));
    if (manifest.noise() != nullptr) noise_ = device_tensor(manifest.noise()->bytes(shape));
    output_ = device_tensor(manifest.output().bytes(shape));
    void* source = input_.device.get();
    for (std::size_t i = 0; i < manifest.stages.size(); ++i) {
      void* sink = output_.device.get();
      if (i + 1 < manifest.stages.size()) {
        between_.push_back(device_memory(manifest.stages[i].output.bytes(shape)));
        sink = between_.back().get();
      }
      bind(i, shape, source, sink);
      source = sink;
    }
  }

  ~TensorRtTensors() override {
    try {
      const CurrentDevice current(work_->device);
      static_cast<void>(cudaStreamSynchronize(stream()));
      release();
    } catch (const Failure&) {  // the device is lost: the members release what they can
    }
  }

  void* input() override { return input_.host.get(); }
  void* noise() override { return noise_.host.get(); }
  void* output() override { return output_.host.get(); }

  void run() override {
    on_device([&] {
      launch(whole_, [&] {
        copy(input_, cudaMemcpyHostToDevice);
        copy_noise();
        enqueue();
        copy(output_, cudaMemcpyDeviceToHost);
      });
    });
  }

  void run_images(const elir_image* inputs, const elir_image* outputs) override {
    const bool noise_is_there = !reads_noise();
    on_device([&] {
      for (std::int64_t i = 0; i < shape_.batch; ++i) {
        for (const elir_image* images : {inputs, outputs}) {
          if (images != nullptr) wait_for_caller(stream(), work_->event, images[i]);
        }
      }
      if (inputs == nullptr) copy(input_, cudaMemcpyHostToDevice);
      for (std::int64_t i = 0; inputs != nullptr && i < shape_.batch; ++i) {
        const ConstPixels source = device_pixels(inputs[i]);
        const Pixels image = image_of(input_, i);
        queue_copy(source, image, stream());
        queue_mirror(image, source.width, source.height, stream());
      }
      if (!noise_is_there) copy_noise();
      launch(engines_alone_, [&] { enqueue(); });
      if (outputs == nullptr) copy(output_, cudaMemcpyDeviceToHost);
      for (std::int64_t i = 0; outputs != nullptr && i < shape_.batch; ++i) {
        const Pixels sink = device_pixels(outputs[i]);
        queue_copy(image_of(output_, i).part(0, 0, sink.width, sink.height), sink, stream());
      }
    });
    noise_of_images_ = true;
  }

  bool reads_noise() const override { return !noise_of_images_; }

 private:
  // Runs `body`, which queues work, and waits for it.
  template <typename Body>
  void on_device(const Body& body) {
    noise_of_images_ = false;
    run_and_wait(*work_, body);
    ran_ = true;
  }

  struct BoundStage {
    const Stage* stage;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
  };

  // The optimisation profile of a shape: engines have one for each, in the manifest's order.
  int profile_of(const Shape& shape) const {
    const auto& shapes = work_->manifest.shapes;
    const auto same = [&](const Shape& each) {
      return each.padded_height == shape.padded_height && each.padded_width == shape.padded_width;
    };
    return static_cast<int>(std::find_if(shapes.begin(), shapes.end(), same) - shapes.begin());
  }

  void bind(std::size_t i, const Shape& shape, void* source, void* sink) {
    const Stage& stage = work_->manifest.stages[i];
    engine_log().take();
    BoundStage bound{&stage, nullptr};
    bound.context.reset(create_context(*work_->engines[i].engine));
    if (!bound.context) throw failed_call("createExecutionContext", stage);
    nvinfer1::IExecutionContext& context = *bound.context;
    set_working_memory(context, work_->memory.get(), work_->bytes);
    // TensorRT 8.6 assigns profile 0 to the first context only.
    if (has_profiles(work_->manifest) &&
        !context.setOptimizationProfileAsync(profile_of(shape), stream())) {
      throw failed_call("setOptimizationProfileAsync", stage);
    }
    bind_tensor(context, stage, stage.input, shape, source);
    if (stage.noise) bind_tensor(context, stage, *stage.noise, shape, noise_.device.get());
    if (!context.setTensorAddress(stage.output.name.c_str(), sink)) {
      throw failed_call("setTensorAddress", stage);
    }
    stages_.push_back(std::move(bound));
  }

  static void bind_tensor(nvinfer1::IExecutionContext& context, const Stage& stage,
                          const TensorSpec& spec, const Shape& shape, void* data) {
    nvinfer1::Dims dims{};
    for (const std::int64_t side : spec.sides(shape)) {
      // 32 bits in TensorRT 8.
      dims.d[dims.nbDims++] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(side);
    }
    if (!context.setInputShape(spec.name.c_str(), dims)) throw failed_call("setInputShape", stage);
    if (!context.setTensorAddress(spec.name.c_str(), data)) {
      throw failed_call("setTensorAddress", stage);
    }
  }

  cudaStream_t stream() const { return work_->stream.get(); }

  void copy(const DeviceTensor& tensor, cudaMemcpyKind direction) const {
    queue_copy(tensor, direction, stream());
  }

  void copy_noise() const {
    if (noise_.bytes > 0) copy(noise_, cudaMemcpyHostToDevice);
  }

  // Image `i` of a tensor of pixels on the device.
  Pixels image_of(const DeviceTensor& tensor, std::int64_t i) const {
    const auto width = static_cast<std::size_t>(shape_.padded_width);
    const auto height = static_cast<std::size_t>(shape_.padded_height);
    auto* const data = static_cast<std::uint8_t*>(tensor.device.get());
    return packed(data + static_cast<std::size_t>(i) * kChannels * width * height, width, height);
  }

  // Work that is always the same, and its graph.
  struct Captured {
    GraphExec graph;
    bool tried = false;
  };

  // Queues what `queue` does, or its graph.
  template <typename Queue>
  void launch(Captured& work, const Queue& queue) {
    // Not the first run, in which an engine may initialise itself: a graph cannot capture that.
    if (ran_ && !work.tried) {
      work.tried = true;
      capture(work, queue);
    }
    if (work.graph) {
      check_cuda(cudaGraphLaunch(work.graph.get(), stream()), "cudaGraphLaunch");
    } else {
      queue();
    }
  }

  void enqueue() {
    engine_log().take();
    for (const BoundStage& bound : stages_) {
      if (!bound.context->enqueueV3(stream())) throw failed_call("enqueueV3", *bound.stage);
    }
  }

  // Captures what `queue` does as a graph; on failure, runs continue without.
  template <typename Queue>
  void capture(Captured& work, const Queue& queue) {
    try {
      work.graph = capture_graph(queue);
    } catch (const Failure& failure) {
      abandon_capture();
      work_->log.warn(
          text("runs are not captured as a CUDA graph and take slightly longer: ", failure.what()));
    } catch (...) {
      abandon_capture();
      throw;
    }
  }

  template <typename Queue>
  GraphExec capture_graph(const Queue& queue) {
    for (const BoundStage& bound : stages_) {
      if (is_capturable(*bound.context, stream())) continue;
      throw unavailable_error(installed(), " says that ", bound.stage->name, " cannot be captured");
    }
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
    queue();
    cudaGraph_t captured = nullptr;
    check_cuda(cudaStreamEndCapture(stream(), &captured), "cudaStreamEndCapture");
    const Graph graph(captured);
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaGraphInstantiateWithFlags(&exec, graph.get(), 0), "cudaGraphInstantiate");
    return GraphExec(exec);
  }

  // Ends an open capture, which would block the stream.
  void abandon_capture() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream(), &status) == cudaSuccess &&
        status != cudaStreamCaptureStatusNone) {
      cudaGraph_t unfinished = nullptr;
      static_cast<void>(cudaStreamEndCapture(stream(), &unfinished));
      const Graph graph(unfinished);
    }
    static_cast<void>(cudaGetLastError());
  }

  // In reverse order of creation.
  void release() {
    for (Captured* each : {&whole_, &engines_alone_}) each->graph.reset();
    stages_.clear();
    between_.clear();
    for (DeviceTensor* each : {&output_, &noise_, &input_}) *each = {};
    work_.reset();
  }

  std::shared_ptr<Work> work_;
  const Shape shape_;
  DeviceTensor input_;
  DeviceTensor noise_;
  DeviceTensor output_;
  std::vector<DeviceMemory> between_;  // outputs of the stages but the last
  std::vector<BoundStage> stages_;
  Captured whole_;          // copies from and to host memory, and the engines
  Captured engines_alone_;  // for images in device memory
  bool ran_ = false;
  bool noise_of_images_ = false;  // the device has the noise of the last run_images()
};

class TensorRtSession final : public Session {
 public:
  // Allocates what single images of the first shape need.
  TensorRtSession(int device, const Manifest& manifest, const std::vector<Engine>& engines,
                  const Log& log)
      : work_(std::make_shared<Work>(device, manifest, engines, log)) {
    Shape first = manifest.shapes.front();
    first.batch = 1;
    static_cast<void>(tensors(first));
  }

  bool any_batch() const override { return false; }

  bool has_device() const override { return true; }
  void check_device_image(const elir_image& image, const char* what) const override {
    check_places(image, what, work_->device);
  }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    const CurrentDevice current(work_->device);
    return std::make_unique<TensorRtTensors>(work_, shape);
  }

  std::shared_ptr<Work> work_;
};

}  // namespace
}  // namespace elir::core
