// A stand-in for a network in plain C++, for tests of everything else, such as threads under a
// sanitizer. Its output depends on the position in the image, which reveals misplaced tiles.
#include <cstring>
#include <limits>

#include "backends/all.hpp"
#include "error.hpp"

namespace elir::core {
namespace {

class ReferenceSession final : public Session {
 public:
  ReferenceSession(const Bundle& bundle, const std::vector<const Artifact*>& artifacts)
      : spec_(bundle.manifest().input()),
        input_(bundle.manifest().input().bytes()),
        output_(bundle.manifest().output().bytes()) {
    if (bundle.manifest().output().dtype != spec_.dtype ||
        bundle.manifest().output().layout != spec_.layout) {
      throw bundle_error("reference requires an input and output of the same type and layout");
    }
    for (const Artifact* artifact : artifacts) {
      static_cast<void>(bundle.checked_file(artifact->file));
    }
  }

  void* input() override { return input_.data(); }
  void* output() override { return output_.data(); }

  void run() override {
    const auto side = static_cast<std::size_t>(spec_.width());
    for (std::size_t y = 0; y < side; ++y) {
      for (std::size_t x = 0; x < side; ++x) {
        for (std::size_t c = 0; c < 3; ++c) compute(index(x, y, c, side), x, y, c);
      }
    }
  }

 private:
  std::size_t index(std::size_t x, std::size_t y, std::size_t c, std::size_t side) const {
    return spec_.layout == Layout::nhwc ? (y * side + x) * 3 + c : (c * side + y) * side + x;
  }

  void compute(std::size_t at, std::size_t x, std::size_t y, std::size_t c) {
    if (spec_.dtype == Dtype::uint8) {
      const auto value = static_cast<const std::uint8_t*>(input_.data())[at];
      static_cast<std::uint8_t*>(output_.data())[at] =
          static_cast<std::uint8_t>(value + 7 * y + 13 * x + 31 * c);
      return;
    }
    // Exceeds [0, 1] at both ends; one value is NaN.
    const float value = static_cast<const float*>(input_.data())[at];
    static_cast<float*>(output_.data())[at] =
        x + y + c == 0 ? std::numeric_limits<float>::quiet_NaN() : value * 1.5F - 0.25F;
  }

  TensorSpec spec_;
  Buffer input_;
  Buffer output_;
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
};

}  // namespace

const Backend& reference_backend() {
  static const ReferenceBackend backend;
  return backend;
}

}  // namespace elir::core
