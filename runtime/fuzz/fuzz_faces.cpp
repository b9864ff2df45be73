// Fuzzes what a face detector computes, and faces of other detectors: the result must be a
// photograph, or an error of one line.
//
// The first four bytes select the convention, whether a face is listed, the sides of the picture
// and the thresholds; the others are the values, repeated as often as needed.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "guard.hpp"
#include "photo/detection.hpp"
#include "photo/paste.hpp"

namespace {

using namespace elir::core;  // NOLINT

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  template <typename Value>
  Value next() {
    Value value{};
    auto* const bytes = reinterpret_cast<std::uint8_t*>(&value);
    for (std::size_t i = 0; size_ > 0 && i < sizeof value; ++i) bytes[i] = data_[at_++ % size_];
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};

class Network final : public DetectorNetwork {
 public:
  Network(Bytes& bytes, bool list, bool fixed) : bytes_(bytes), list_(list), fixed_(fixed) {}

  // As an engine has them: larger pictures are refused.
  std::vector<PictureSize> sizes() const override {
    if (!fixed_) return {};
    return {{192, 256}, {256, 192}, {256, 256}};
  }

  std::vector<DetectorOutput> run(float* /*picture*/, std::int64_t height,
                                  std::int64_t width) override {
    std::vector<DetectorOutput> outputs;
    if (!list_) {
      add(outputs, "537", 1, 4, height, width);
      add(outputs, "538", 2, 4, height, width);
      add(outputs, "539", 2, 4, height, width);
      add(outputs, "540", 10, 4, height, width);
    }
    for (const std::int64_t stride : {8, 16, 32}) {
      const std::string end = "_" + std::to_string(stride);
      add(outputs, "cls" + end, 1, stride, height, width);
      add(outputs, "obj" + end, 1, stride, height, width);
      add(outputs, "bbox" + end, 4, stride, height, width);
      add(outputs, "kps" + end, 10, stride, height, width);
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i].data = values_[i].data();
    return outputs;
  }

 private:
  void add(std::vector<DetectorOutput>& outputs, const std::string& name, std::int64_t channels,
           std::int64_t stride, std::int64_t height, std::int64_t width) {
    const std::int64_t rows = height / stride;
    const std::int64_t columns = width / stride;
    values_.emplace_back();
    for (std::int64_t i = 0; i < channels * rows * columns; ++i) {
      values_.back().push_back(bytes_.next<float>());
    }
    const std::vector<std::int64_t> sides =
        list_ ? std::vector{std::int64_t{1}, rows * columns, channels}
              : std::vector{std::int64_t{1}, channels, rows, columns};
    outputs.push_back({{name, "float32", sides}, nullptr});
  }

  Bytes& bytes_;
  bool list_;
  bool fixed_;
  std::vector<std::vector<float>> values_;
};

const Template kTemplate = {{{{193, 240}, {319, 240}, {257, 314}, {201, 371}, {313, 371}}}, 512};

// Restores the face with a network that inverts colours.
void restore(const Face& face, const Photograph& picture, std::int64_t side, std::int64_t scale) {
  const auto width = picture.pixels.width * static_cast<std::size_t>(scale);
  const auto height = picture.pixels.height * static_cast<std::size_t>(scale);
  const Points points = template_units(kTemplate, side);
  Points landmarks = face.landmarks;
  for (Point& point : landmarks) point = {scale * point.x, scale * point.y};
  const auto longest = static_cast<std::int64_t>(std::max(width, height));
  if (reason_not_alignable(points, landmarks, side, longest) != nullptr) return;
  const Similarity similarity = fit(points, landmarks);
  const Comparison comparison(side);
  if (comparison.ellipse().bounds(similarity, width, height).empty()) return;
  const auto across = static_cast<std::size_t>(side);
  std::vector<std::uint8_t> square(3 * across * across);
  crop(picture, similarity.shrunk(scale), packed(square.data(), across, across));
  std::vector<std::uint8_t> restored = square;
  for (std::uint8_t& value : restored) value = static_cast<std::uint8_t>(255 - value);
  std::vector<std::uint8_t> output(3 * width * height);
  Scratch scratch;
  paste({picture.pixels, false, static_cast<int>(scale), Kernel::bicubic}, similarity,
        comparison.ellipse(), comparison.compare(square.data(), restored.data(), similarity),
        packed(output.data(), width, height), false, scratch);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  Bytes bytes(data + 4, size - 4);
  const bool list = (data[0] & 1U) != 0;
  const std::size_t width = 1U + data[1];
  const std::size_t height = 1U + data[2];
  const std::vector<std::uint8_t> pixels(3 * width * height, 90);
  const Photograph picture{packed(pixels.data(), width, height), false};
  Detector detector{
      list ? "yunet" : "centerface", "",        {}, false, 32, 128, (data[3] & 15U) / 15.0,
      (data[3] >> 4U) / 15.0,        kTemplate, {}};
  if (list) {
    for (const std::string stride : {"8", "16", "32"}) {
      detector.outputs["cls_" + stride] = "class_" + stride;
      detector.outputs["obj_" + stride] = "object_" + stride;
      detector.outputs["bbox_" + stride] = "box_" + stride;
      detector.outputs["kps_" + stride] = "landmarks_" + stride;
    }
  } else {
    detector.outputs = {
        {"537", "heat_4"}, {"538", "log_size_4"}, {"539", "offset_4"}, {"540", "landmarks_4"}};
  }
  const elir_status status = guarded([&] {
    std::vector<Face> faces;
    if ((data[0] & 2U) != 0) {
      elir_face face = bytes.next<elir_face>();
      faces.push_back(read_face(face));
    } else {
      Network network(bytes, list, (data[0] & 64U) != 0);
      faces = find_faces(picture, detector, network, 32 + data[0]);
    }
    static_cast<void>(is_aligned(faces, width, height, kTemplate));
    choose(faces, static_cast<elir_faces>(1 + data[0] / 4 % 3), width, height);
    std::size_t count = 0;
    for (const Face& face : faces) {
      if (face.reason == nullptr && ++count < 4)
        restore(face, picture, 16 + data[3], 1 << data[0] % 3);
    }
  });
  if (status == ELIR_OK) return 0;
  const std::string message = last_error;
  if (status != ELIR_ERROR_BUNDLE && status != ELIR_ERROR_IMAGE &&
      status != ELIR_ERROR_UNAVAILABLE) {  // the picture is larger than the network takes
    std::abort();
  }
  if (message.empty()) std::abort();
  for (const char byte : message) {
    if (static_cast<unsigned char>(byte) < 0x20) std::abort();
  }
  return 0;
}
