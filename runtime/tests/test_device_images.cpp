// Images in CUDA memory through the C API, on the stand-ins: what is copied where, the same pixels
// as from host memory, and errors.
#include <elir/elir.hpp>

#include "c_api.hpp"
#include "tensorrt_test.hpp"

namespace elir::core {
namespace {

using Bytes = std::vector<std::uint8_t>;

struct Destroy {
  void operator()(elir_restorer* restorer) const { elir_destroy(restorer); }
};

// An image in device memory, its rows `pitch` bytes apart.
class DeviceImage {
 public:
  DeviceImage(int width, int height, int pitch = 0)
      : width_(width), height_(height), pitch_(pitch == 0 ? 3 * width : pitch) {
    cudaMalloc(&data_, static_cast<std::size_t>(pitch_ * height));
    std::memset(data_, 0xEE, static_cast<std::size_t>(pitch_ * height));
  }
  ~DeviceImage() { cudaFree(data_); }
  DeviceImage(const DeviceImage&) = delete;
  DeviceImage& operator=(const DeviceImage&) = delete;

  elir_image image(cudaStream_t stream = nullptr) const {
    return cuda_image(data_, width_, height_, stream, pitch_);
  }
  void write(const Bytes& pixels) const { copy(packed(pixels.data(), width(), height()), view()); }
  Bytes read() const {
    Bytes pixels(3 * width() * height());
    copy(view(), packed(pixels.data(), width(), height()));
    return pixels;
  }

 private:
  std::size_t width() const { return static_cast<std::size_t>(width_); }
  std::size_t height() const { return static_cast<std::size_t>(height_); }
  Pixels view() const { return core::view(image()); }

  int width_;
  int height_;
  int pitch_;
  void* data_ = nullptr;
};

struct Copies {
  int to_device;
  int to_host;
  int on_device;
  bool operator==(const Copies& other) const {
    return to_device == other.to_device && to_host == other.to_host && on_device == other.on_device;
  }
};

Copies copies() {
  return {cuda.copies[cudaMemcpyHostToDevice], cuda.copies[cudaMemcpyDeviceToHost],
          cuda.copies[cudaMemcpyDeviceToDevice]};
}

// Those of `work`.
template <typename Call>
Copies copies_of(const Call& work) {
  const Copies before = copies();
  work();
  const Copies now = copies();
  return {now.to_device - before.to_device, now.to_host - before.to_host,
          now.on_device - before.on_device};
}

class DeviceImagesTest : public TensorRtTest, public ::testing::WithParamInterface<const char*> {
 protected:
  ~DeviceImagesTest() override { restorer_.reset(); }

  bool rtx() const { return GetParam() == std::string("tensorrt-rtx"); }
  StandInTensorRt& state() const { return rtx() ? tensorrt_rtx : tensorrt; }
  std::uint8_t added() const { return rtx() ? 2 : 1; }

  elir_restorer* open() {
    const Bundle& opened = rtx() ? fitting_rtx() : fitting();
    open_.among = {rtx() ? &backend_rtx() : &backend()};
    open_.backend = GetParam();
    open_.precision = "fp16";
    open_.check_accuracy = false;
    open_.setup = setup_;
    restorer_.reset(new elir_restorer(opened.path().c_str(), open_, 4, 0));
    return restorer_.get();
  }

  // Four images of 32x32 in a run, or 60x30 padded to 64x32, and noise.
  void several() {
    options_.shapes = R"([{"batch": 4, "height": 32, "width": 32},
                          {"batch": 4, "height": 30, "width": 60,
                           "padded_height": 32, "padded_width": 64}])";
    state().profiles[1] = {32, 64};
    state().profile_count = 2;
    state().batch = 4;
    options_.noise_stride = 8;
    state().noise = true;
  }

  void restore(const elir_image& input, const elir_image& output) {
    EXPECT_EQ(elir_restore(restorer_.get(), &input, &output), ELIR_OK) << elir_last_error();
  }

  // The error of restoring an image, and of writing to it, with the other one in host memory.
  void expect_error(const elir_image& image, elir_status status, const std::string& rest) {
    Bytes pixels(3 * 4096);
    const elir_image other = elir::image(pixels.data(), image.width, image.height);
    EXPECT_EQ(elir_restore(restorer_.get(), &image, &other), status);
    EXPECT_EQ(elir_last_error(), "the input " + rest);
    EXPECT_EQ(elir_restore(restorer_.get(), &other, &image), status);
    EXPECT_EQ(elir_last_error(), "the output " + rest);
  }

  OpenOptions open_;
  std::unique_ptr<elir_restorer, Destroy> restorer_;
};

INSTANTIATE_TEST_SUITE_P(Both, DeviceImagesTest, ::testing::Values("tensorrt", "tensorrt-rtx"));

TEST_P(DeviceImagesTest, NothingIsCopiedToTheHost) {
  open();
  Bytes pixels = test::pattern(32, 32, 0);
  Bytes result(pixels.size());
  const DeviceImage input(32, 32);
  const DeviceImage output(32, 32);
  input.write(pixels);
  const elir_image host_in = test::image_of(pixels, 32, 32);
  const elir_image host_out = test::image_of(result, 32, 32);
  for (int round = 0; round < 4; ++round) {  // queued call by call, captured, and as a graph
    EXPECT_EQ(copies_of([&] { restore(host_in, host_out); }), (Copies{1, 1, 0}));
    EXPECT_EQ(copies_of([&] { restore(input.image(), output.image()); }), (Copies{0, 0, 2}));
    EXPECT_EQ(output.read(), result);
    EXPECT_EQ(copies_of([&] { restore(input.image(), host_out); }), (Copies{0, 1, 1}));
    EXPECT_EQ(copies_of([&] { restore(host_in, output.image()); }), (Copies{1, 0, 1}));
  }
  EXPECT_EQ(result.front(), static_cast<std::uint8_t>(pixels.front() + added()));
  EXPECT_EQ(cuda.launches, 15);
  EXPECT_EQ(warnings_.size(), 1U) << "the line that names backend and precision";
}

TEST_P(DeviceImagesTest, SameAsFromHostMemory) {
  several();
  open();
  for (const auto& [width, height] : {std::pair(32, 32), std::pair(60, 30)}) {
    Bytes pixels =
        test::pattern(static_cast<std::size_t>(width), static_cast<std::size_t>(height), 3);
    Bytes result(pixels.size());
    for (const int pitch : {3 * width, 3 * width + 5, 256}) {
      const DeviceImage input(width, height, pitch);
      const DeviceImage output(width, height, pitch);
      input.write(pixels);
      restore(test::image_of(pixels, width, height), test::image_of(result, width, height));
      const Bytes seen = state().seen;
      state().seen.clear();
      for (int round = 0; round < 3; ++round) {
        Bytes other(pixels.size());  // overwrites what is mirrored
        restore(test::image_of(other, width, height), test::image_of(other, width, height));
        restore(input.image(), output.image());
        EXPECT_EQ(output.read(), result);
        EXPECT_EQ(state().seen, seen) << "mirrored beyond the image";
      }
    }
  }
}

// Work in the caller's streams is done before an image is read or an output written.
TEST_P(DeviceImagesTest, WaitsForTheCallersStreams) {
  open();
  const Bytes pixels = test::pattern(32, 32, 1);
  const DeviceImage input(32, 32);
  const DeviceImage output(32, 32);
  cudaStream_t streams[2];
  for (cudaStream_t& stream : streams) cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  for (int round = 0; round < 3; ++round) {
    for (auto* const first : {streams[0], cudaStream_t{nullptr}}) {
      Bytes before;
      stand_in::stream_of(first).add([&] { input.write(pixels); });
      streams[1]->add([&] { before = output.read(); });
      output.write(Bytes(pixels.size(), 7));
      restore(input.image(first), output.image(streams[1]));
      EXPECT_EQ(before, Bytes(pixels.size(), 7)) << "the output was written before others read it";
      EXPECT_EQ(output.read().back(), static_cast<std::uint8_t>(pixels.back() + added()));
      input.write(Bytes(pixels.size(), 0));
    }
  }
  for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
}

// Images of a run are all in one kind of memory; others are run separately.
TEST_P(DeviceImagesTest, Batches) {
  several();
  open();
  Bytes pixels = test::pattern(32, 32, 0);
  Bytes results[8];
  std::vector<std::unique_ptr<DeviceImage>> on_device;
  std::vector<elir_image> inputs;
  std::vector<elir_image> outputs;
  for (std::size_t i = 0; i < 8; ++i) {
    results[i].resize(pixels.size());
    on_device.push_back(std::make_unique<DeviceImage>(32, 32));
    on_device.push_back(std::make_unique<DeviceImage>(32, 32, 100));
    on_device[2 * i]->write(pixels);
    inputs.push_back(i >= 3 ? test::image_of(pixels, 32, 32) : on_device[2 * i]->image());
    outputs.push_back(i >= 4 ? test::image_of(results[i], 32, 32) : on_device[2 * i + 1]->image());
  }
  const auto all = [&] {
    EXPECT_EQ(elir_restore_batch(restorer_.get(), inputs.data(), outputs.data(), 8), ELIR_OK)
        << elir_last_error();
  };
  EXPECT_EQ(copies_of(all), (Copies{4, 1, 7}))
      << "three alone, one to the device, and a batch of four";
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(i >= 4 ? results[i] : on_device[2 * i + 1]->read(), results[7]);
  }
  restore(inputs[0], outputs[0]);
  EXPECT_EQ(on_device[1]->read(), results[7]) << "alone";
}

TEST_P(DeviceImagesTest, NoiseIsCopiedOnce) {
  several();
  open();
  Bytes pixels = test::pattern(32, 32, 0);
  Bytes result(pixels.size());
  const DeviceImage input(32, 32);
  const DeviceImage output(32, 32);
  input.write(pixels);
  const auto device = [&] { restore(input.image(), output.image()); };
  EXPECT_EQ(copies_of(device), (Copies{1, 0, 2}));
  EXPECT_EQ(copies_of(device), (Copies{0, 0, 2}));
  restore(test::image_of(pixels, 32, 32), test::image_of(result, 32, 32));
  EXPECT_EQ(copies_of(device), (Copies{1, 0, 2})) << "an image in host memory may have another";
  state().enqueue_fails = true;
  const elir_image in = input.image();
  const elir_image out = output.image();
  EXPECT_EQ(elir_restore(restorer_.get(), &in, &out), ELIR_OK) << "a graph is launched";
  state().enqueue_fails = false;
  EXPECT_EQ(output.read(), result);
}

TEST_P(DeviceImagesTest, Async) {
  open();
  const Bytes pixels = test::pattern(32, 32, 1);
  const DeviceImage input(32, 32);
  const DeviceImage output(32, 32);
  input.write(pixels);
  const elir_image in = input.image();
  const elir_image out = output.image();
  elir_status status = ELIR_ERROR_INTERNAL;
  const auto done = [](void* user, elir_status result, const char*) {
    *static_cast<elir_status*>(user) = result;
  };
  EXPECT_EQ(copies_of([&] {
              ASSERT_EQ(elir_restore_async(restorer_.get(), &in, &out, done, &status), ELIR_OK);
              ASSERT_EQ(elir_wait(restorer_.get()), ELIR_OK);
            }),
            (Copies{0, 0, 2}));
  EXPECT_EQ(status, ELIR_OK);
  EXPECT_EQ(output.read().front(), static_cast<std::uint8_t>(pixels.front() + added()));
}

TEST_P(DeviceImagesTest, WrongPlaces) {
  cuda.devices = 2;
  open();
  const DeviceImage good(32, 32);
  elir_image image = good.image();
  image.stride = 95;
  expect_error(image, ELIR_ERROR_IMAGE,
               "has a stride of 95 bytes, expected at least 96 for 32 pixels");
  image.stride = -96;
  expect_error(
      image, ELIR_ERROR_IMAGE,
      "has a stride of -96 bytes in CUDA memory, expected at least 96: rows must be stored "
      "top down there");
  image = good.image();
  image.format = ELIR_BGR8;
  expect_error(image, ELIR_ERROR_IMAGE,
               "has format ELIR_BGR8 in CUDA memory, expected ELIR_RGB8: swap the channels on the "
               "GPU, or copy it to host memory");
  const auto place_error = [&](const elir_image& wrong, const std::string& rest) {
    for (const bool output : {false, true}) {
      const elir_image in = output ? good.image() : wrong;
      const elir_image out = output ? wrong : good.image();
      EXPECT_EQ(elir_restore(restorer_.get(), &in, &out), ELIR_ERROR_IMAGE);
      std::string expected = rest;
      expected.replace(expected.find("WHAT"), 4, output ? "output" : "input");
      EXPECT_EQ(elir_last_error(), expected);
    }
  };
  image = good.image();
  image.stride = 1000;
  place_error(image,
              "the last byte of the WHAT (32x32, stride 1000) is not in CUDA memory, expected an "
              "address of CUDA device 0: set memory to ELIR_MEMORY_HOST for host memory");
  Bytes host(3 * 32 * 32);
  place_error(cuda_image(host.data(), 32, 32),
              "the data of the WHAT is not in CUDA memory, expected an address of CUDA device 0: "
              "set memory to ELIR_MEMORY_HOST for host memory");
  void* pinned = nullptr;
  cudaHostAlloc(&pinned, host.size(), 0);
  place_error(cuda_image(pinned, 32, 32),
              "the data of the WHAT is in page-locked host memory, expected CUDA device 0: set "
              "memory to ELIR_MEMORY_HOST");
  cudaFreeHost(pinned);
  cuda.current = 1;
  {
    const DeviceImage other(32, 32);
    place_error(other.image(),
                "the data of the WHAT is on CUDA device 1, expected device 0, the restorer's: copy "
                "it there, or set elir_params.device");
  }
  EXPECT_EQ(cuda.current, 1);
  cuda.current = 0;
  restore(good.image(), good.image());  // as good as before
}

TEST_P(DeviceImagesTest, WrongStreams) {
  cuda.devices = 2;
  open();
  const DeviceImage input(32, 32);
  const DeviceImage output(32, 32);
  cuda.current = 1;
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cuda.current = 0;
  const auto error = [&] {
    const elir_image in = input.image();
    const elir_image out = output.image(stream);
    EXPECT_EQ(elir_restore(restorer_.get(), &in, &out), ELIR_ERROR_IMAGE);
    return std::string(elir_last_error());
  };
  EXPECT_EQ(error(), "the image's stream is of another CUDA device, expected the restorer's");
  stream->device = 0;
  stream->capturing = true;
  EXPECT_EQ(error(),
            "the image's stream is being captured as a CUDA graph, expected one that executes its "
            "work: restore before or after the capture");
  stream->capturing = false;
  restore(input.image(), output.image(stream));
  cudaStreamDestroy(stream);
}

TEST_P(DeviceImagesTest, OtherSizes) {
  several();
  open();
  const DeviceImage image(40, 30);
  expect_error(image.image(), ELIR_ERROR_IMAGE,
               "is 40x30 in CUDA memory, expected 32x32 or 60x30: resize it on the GPU, copy it to "
               "host memory, or export the bundle with --image-size 40x30");
  Bytes pixels(3 * 40 * 30);  // from host memory, it is restored in a padded run
  restore(test::image_of(pixels, 40, 30), test::image_of(pixels, 40, 30));
}

TEST_P(DeviceImagesTest, WhatNeedsTheHost) {
  const DeviceImage image(32, 32);
  open_.strength = Strength(0.5);
  open();
  expect_error(image.image(), ELIR_ERROR_UNAVAILABLE,
               "is in CUDA memory, where elir_params.strength must be 1: copy it to host memory");
  open_.strength = Strength();
  options_.float_images = state().floats = true;
  open();
  expect_error(image.image(), ELIR_ERROR_UNAVAILABLE,
               "is in CUDA memory, and this bundle takes or gives no bytes (elir-export --io "
               "uint8): copy it to host memory");
  options_.float_images = state().floats = false;
  options_.upscale = 2;
  options_.kernel = "bicubic";
  open();
  const DeviceImage small(16, 16);
  const elir_image in = small.image();
  const elir_image out = image.image();
  EXPECT_EQ(elir_restore(restorer_.get(), &in, &out), ELIR_ERROR_UNAVAILABLE);
  EXPECT_STREQ(
      elir_last_error(),
      "the input is in CUDA memory, where tiny does not enlarge it: copy it to host memory");
  Bytes pixels = test::pattern(16, 16, 0);
  EXPECT_EQ(copies_of([&] { restore(test::image_of(pixels, 16, 16), out); }), (Copies{1, 0, 1}));
}

TEST_P(DeviceImagesTest, FacesAreOnTheHost) {
  open();
  const DeviceImage device(32, 32);
  Bytes pixels(3 * 32 * 32);
  const elir_image image = device.image();
  const elir_image host = test::image_of(pixels, 32, 32);
  const std::string rest =
      " is in CUDA memory, where no faces are found or put back: copy it to host memory";
  std::size_t count = 0;
  EXPECT_EQ(elir_detect(restorer_.get(), &image, nullptr, 0, &count), ELIR_ERROR_UNAVAILABLE);
  EXPECT_EQ(elir_last_error(), "the image" + rest);
  for (const bool output : {false, true}) {
    EXPECT_EQ(elir_restore_photo(restorer_.get(), nullptr, output ? &host : &image,
                                 output ? &image : &host, nullptr, 0, nullptr),
              ELIR_ERROR_UNAVAILABLE);
    EXPECT_EQ(elir_last_error(), (output ? "the output" : "the input") + rest);
  }
}

TEST_P(DeviceImagesTest, AfterTheEnd) {
  const DeviceImage device(32, 32);
  const elir_image image = device.image();
  open();
  cuda.lost = true;
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(elir_restore(restorer_.get(), &image, &image), ELIR_ERROR_UNAVAILABLE);
  }
  cuda.lost = false;
  EXPECT_EQ(elir_restore(nullptr, &image, &image), ELIR_ERROR_USAGE) << "one that is closed";
  EXPECT_STREQ(elir_last_error(), "restorer is NULL");
}

}  // namespace
}  // namespace elir::core
