// A stand-in for a network in plain C++, for tests of everything else, such as threads under a
// sanitizer. Its output depends on the position in the image, which reveals misplaced tiles.
#include <algorithm>
#include <cstring>
#include <limits>

#include "backends/all.hpp"
#include "detector_graph.hpp"
#include "error.hpp"
#include "reference_detector.hpp"

namespace elir::core {
namespace {

class ReferenceTensors final : public HostTensors {
 public:
  ReferenceTensors(const Manifest& manifest, const Shape& shape)
      : HostTensors(manifest.stages, shape),
        spec_(manifest.input()),
        shape_(shape),
        noise_spec_(manifest.noise()) {}

  void run() override {
    for (std::int64_t image = 0; image < shape_.batch; ++image) {
      for (std::int64_t y = 0; y < shape_.padded_height; ++y) {
        for (std::int64_t x = 0; x < shape_.padded_width; ++x) {
          for (std::int64_t c = 0; c < 3; ++c) {
            compute(index(spec_, image, x, y, c), x, y, c, noise_at(image, x, y, c));
          }
        }
      }
    }
  }

 private:
  std::size_t index(const TensorSpec& spec, std::int64_t image, std::int64_t x, std::int64_t y,
                    std::int64_t c) const {
    const auto sides = spec.sides(shape_);
    const std::array<std::int64_t, 4> at = spec.layout == Layout::nhwc
                                               ? std::array<std::int64_t, 4>{image, y, x, c}
                                               : std::array<std::int64_t, 4>{image, c, y, x};
    return static_cast<std::size_t>(((at[0] * sides[1] + at[1]) * sides[2] + at[2]) * sides[3] +
                                    at[3]);
  }

  // In units of 1/4096.
  std::int64_t noise_at(std::int64_t image, std::int64_t x, std::int64_t y, std::int64_t c) {
    if (noise_spec_ == nullptr) return 0;
    const std::int64_t stride = noise_spec_->stride;
    const auto* values = static_cast<const float*>(noise());
    const float value = values[index(*noise_spec_, image, x / stride, y / stride, c)];
    return static_cast<std::int64_t>(value * 4096);
  }

  void compute(std::size_t at, std::int64_t x, std::int64_t y, std::int64_t c, std::int64_t noise) {
    if (spec_.dtype == Dtype::uint8) {
      const auto value = static_cast<const std::uint8_t*>(input())[at];
      static_cast<std::uint8_t*>(output())[at] =
          static_cast<std::uint8_t>(value + 7 * y + 13 * x + 31 * c + noise);
      return;
    }
    // Exceeds [0, 1] at both ends; one value is NaN.
    const float value = static_cast<const float*>(input())[at];
    static_cast<float*>(output())[at] =
        x + y + c == 0 ? std::numeric_limits<float>::quiet_NaN() : value * 1.5F - 0.25F;
  }

  TensorSpec spec_;
  Shape shape_;
  const TensorSpec* noise_spec_;
};

class ReferenceSession final : public Session {
 public:
  ReferenceSession(const Bundle& bundle, const std::vector<const Artifact*>& artifacts)
      : manifest_(bundle.manifest()) {
    if (manifest_.output().dtype != manifest_.input().dtype ||
        manifest_.output().layout != manifest_.input().layout) {
      throw bundle_error("reference requires an input and output of the same type and layout");
    }
    if (manifest_.noise() != nullptr && manifest_.noise()->channels < 3) {
      throw bundle_error("reference requires noise of three channels");
    }
    for (const Artifact* artifact : artifacts) {
      static_cast<void>(bundle.checked_file(artifact->file));
    }
  }

 private:
  std::unique_ptr<Tensors> allocate(const Shape& shape) override {
    return std::make_unique<ReferenceTensors>(manifest_, shape);
  }

  const Manifest& manifest_;
};

class ReferenceDetector final : public DetectorNetwork {
 public:
  explicit ReferenceDetector(const Template& aligned) : aligned_(aligned) {}

  std::vector<DetectorOutput> run(float* picture, std::int64_t height,
                                  std::int64_t width) override {
    values_ = test::reference_outputs(picture, height, width, aligned_.points);
    std::vector<DetectorOutput> outputs;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const auto& [name, channels] = test::kReferenceOutputs[i];
      outputs.push_back(
          {{name, "float32", {1, channels, height / 4, width / 4}}, values_[i].data()});
    }
    return outputs;
  }

 private:
  const Template aligned_;
  std::array<std::vector<float>, 4> values_;
};

class ReferenceBackend final : public Backend {
 public:
  ReferenceBackend() : Backend({"reference", "onnx", {"fp32", "int8", "fp16"}, false}) {}

  std::optional<std::string> available() const override { return std::nullopt; }

  std::vector<std::unique_ptr<Session>> open(const Bundle& bundle, const std::string& precision,
                                             const Setup& setup) const override {
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < (setup.throughput ? 3 : 1); ++i) {
      sessions.push_back(std::make_unique<ReferenceSession>(bundle, artifacts(bundle, precision)));
    }
    return sessions;
  }

  std::unique_ptr<DetectorNetwork> open_detector(const Bundle& bundle,
                                                 const Setup& /*setup*/) const override {
    static_cast<void>(detector_file(bundle));
    return std::make_unique<ReferenceDetector>(detector_of(bundle).aligned);
  }
};

}  // namespace

const Backend& reference_backend() {
  static const ReferenceBackend backend;
  return backend;
}

}  // namespace elir::core
