// A face detector's engine on TensorRT or TensorRT-RTX.
//
// The engine has an optimisation profile for each of a few sizes of pictures. Each has its own
// execution context and memory for tensors, allocated with its first picture.
#pragma once

#include "tensorrt_session.hpp"

#include <cstring>
#include <map>

#include "../manifest.hpp"

namespace elir::core {
namespace {

class TensorRtDetector final : public DetectorNetwork {
 public:
  // `sizes` are those of the profiles, in order. `bundle` must outlive this.
  TensorRtDetector(int device, const Manifest& bundle, Engine engine, const Detector& detector,
                   std::vector<PictureSize> sizes, const Log& log)
      : work_(std::make_unique<Work>(device, bundle, std::vector<Engine>{std::move(engine)}, log)),
        detector_(detector),
        sizes_(std::move(sizes)) {}

  ~TensorRtDetector() override {
    try {
      const CurrentDevice current(work_->device);
      static_cast<void>(cudaStreamSynchronize(stream()));
      places_.clear();
      work_.reset();
    } catch (const Failure&) {  // the device is lost: the members release what they can
    }
  }

  std::vector<PictureSize> sizes() const override { return sizes_; }

  std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                  std::int64_t width) override {
    const auto same = [&](const PictureSize& size) {
      return size.height == height && size.width == width;
    };
    const auto profile = std::find_if(sizes_.begin(), sizes_.end(), same) - sizes_.begin();
    std::vector<DetectorOutput> outputs;
    run_and_wait(*work_, [&] {
      engine_log().take();
      auto place = places_.find(profile);
      if (place == places_.end()) {
        place = places_.emplace(profile, allocate(static_cast<int>(profile), height, width)).first;
      }
      const Place& ready = place->second;
      std::memcpy(ready.input.host.get(), picture, ready.input.bytes);
      queue_copy(ready.input, cudaMemcpyHostToDevice, stream());
      if (!ready.context->enqueueV3(stream())) throw failed_call("enqueueV3", kDetector);
      for (const auto& [end, tensor] : ready.outputs) {
        queue_copy(tensor, cudaMemcpyDeviceToHost, stream());
        outputs.push_back({end, tensor.host.get()});
      }
    });
    return outputs;
  }

 private:
  static constexpr const char* kDetector = "the face detector";
  static constexpr std::int64_t kMaxBytes = std::int64_t{1} << 30;  // of an output

  // What pictures of one size need.
  struct Place {
    DeviceTensor input;
    std::vector<std::pair<End, DeviceTensor>> outputs;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
  };

  Place allocate(int profile, std::int64_t height, std::int64_t width) {
    Place place;
    place.input = device_tensor(sizeof(float) * static_cast<std::size_t>(3 * height * width));
    place.context.reset(create_context(*work_->engines.front().engine));
    if (!place.context) throw failed_call("createExecutionContext", kDetector);
    nvinfer1::IExecutionContext& context = *place.context;
    set_working_memory(context, work_->memory.get(), work_->bytes);
    if (!context.setOptimizationProfileAsync(profile, stream())) {
      throw failed_call("setOptimizationProfileAsync", kDetector);
    }
    nvinfer1::Dims dims{};
    for (const std::int64_t side : {std::int64_t{1}, std::int64_t{3}, height, width}) {
      // 32 bits in TensorRT 8.
      dims.d[dims.nbDims++] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(side);
    }
    if (!context.setInputShape(detector_.input.c_str(), dims)) {
      throw failed_call("setInputShape", kDetector);
    }
    bind(context, detector_.input, place.input);
    for (const auto& [name, meaning] : detector_.outputs) {
      End end{name, type_name(Dtype::float32), sides_of(context.getTensorShape(name.c_str()))};
      place.outputs.emplace_back(std::move(end), DeviceTensor{});
      place.outputs.back().second = device_tensor(bytes_of(place.outputs.back().first));
      bind(context, name, place.outputs.back().second);
    }
    return place;
  }

  static void bind(nvinfer1::IExecutionContext& context, const std::string& name,
                   const DeviceTensor& tensor) {
    if (!context.setTensorAddress(name.c_str(), tensor.device.get())) {
      throw failed_call("setTensorAddress", kDetector);
    }
  }

  static std::size_t bytes_of(const End& output) {
    std::int64_t bytes = sizeof(float);
    for (const std::int64_t side : output.sides) {
      if (side < 1 || side > kMaxBytes / bytes) {
        throw unavailable_error(installed(), ": the output of ", kDetector, " is ",
                                output.describe(), ", expected at most ", kMaxBytes, " bytes");
      }
      bytes *= side;
    }
    return static_cast<std::size_t>(bytes);
  }

  cudaStream_t stream() const { return work_->stream.get(); }

  std::unique_ptr<Work> work_;
  const Detector& detector_;
  const std::vector<PictureSize> sizes_;
  std::map<std::ptrdiff_t, Place> places_;  // by profile
};

}  // namespace
}  // namespace elir::core
