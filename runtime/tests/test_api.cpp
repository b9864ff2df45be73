// The API from C++, on the reference backend.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <elir/elir.hpp>

#include "png.hpp"
#include "support.hpp"
#include "text.hpp"

namespace elir {
namespace {

using test::BundleOptions;

class ApiTest : public ::testing::Test {
 protected:
  std::string bundle(const BundleOptions& options) {
    test::write_bundle(folder_.path() / "b", options);
    return (folder_.path() / "b").string();
  }
  static std::string create_error(const std::string& bundle, const elir_params& params,
                                  elir_status expected) {
    try {
      Restorer restorer(bundle, params);
      return "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), expected) << error.what();
      return error.what();
    }
  }
  test::Folder folder_;
};

std::vector<std::uint8_t> restored(Restorer& restorer, std::vector<std::uint8_t> pixels, int width,
                                   int height) {
  const Size size = restorer.output_size(width, height);
  std::vector<std::uint8_t> result(static_cast<std::size_t>(3 * size.width * size.height));
  restorer.restore(test::image_of(pixels, width, height),
                   test::image_of(result, size.width, size.height));
  return result;
}

TEST_F(ApiTest, Describes) {
  Restorer restorer(bundle({64, true, false, true}), test::reference_params());
  const elir_description actual = restorer.describe();
  EXPECT_STREQ(actual.task, "tiny");
  EXPECT_STREQ(actual.backend, "reference");
  EXPECT_STREQ(actual.precision, "fp32");
  ASSERT_EQ(actual.shape_count, 1);
  EXPECT_EQ(actual.shapes[0].batch, 1);
  EXPECT_EQ(actual.shapes[0].width, 64);
  EXPECT_EQ(actual.shapes[0].height, 64);
  EXPECT_EQ(actual.largest_batch, 1);
  EXPECT_EQ(actual.face_detector, 0);
  EXPECT_EQ(actual.fit, ELIR_FIT_RESIZE);
  EXPECT_EQ(actual.aligned_faces, 1);
  EXPECT_EQ(actual.concurrency, 1);
  EXPECT_STREQ(actual.input.name, "image");
  EXPECT_EQ(actual.input.bytes, 64U * 64 * 3);
}

TEST_F(ApiTest, ImageOfTheNetworksSize) {
  Restorer restorer(bundle({}), test::reference_params());
  const auto pixels = test::pattern(32, 32, 5);
  std::vector<std::uint8_t> expected(pixels.size());
  test::reference_model(pixels.data(), expected.data(), 32);
  EXPECT_EQ(restored(restorer, pixels, 32, 32), expected);
}

TEST_F(ApiTest, FloatImages) {
  Restorer restorer(bundle({32, false, true}), test::reference_params());
  const auto pixels = test::pattern(32, 32, 1);
  const auto result = restored(restorer, pixels, 32, 32);
  EXPECT_EQ(result[0], 0);  // the reference backend returns NaN there
  for (std::size_t i = 1; i < pixels.size(); ++i) {
    const float value = static_cast<float>(pixels[i]) / 255.0F * 1.5F - 0.25F;
    const float clipped = std::min(std::max(value, 0.0F), 1.0F);
    ASSERT_EQ(result[i], static_cast<std::uint8_t>(std::nearbyint(clipped * 255.0F))) << i;
  }
}

// Any order of channels, stride and direction of rows gives the same picture.
TEST_F(ApiTest, FormatsAndStrides) {
  for (const int width : {32, 50, 20}) {
    for (const elir_fit fit : {ELIR_FIT_TILE, ELIR_FIT_RESIZE}) {
      const int height = 41;
      elir_params params = test::reference_params();
      params.fit = fit;
      Restorer restorer(bundle({32, false, false, false, 2, "bicubic"}), params);
      const auto pixels = test::pattern(static_cast<std::size_t>(width), 41, 3);
      const auto expected = restored(restorer, pixels, width, height);
      for (const bool bgr_in : {false, true}) {
        for (const bool bgr_out : {false, true}) {
          const std::ptrdiff_t stride_in = 3 * width + 5;
          const std::ptrdiff_t stride_out = 6 * width + 11;
          std::vector<std::uint8_t> in(static_cast<std::size_t>(stride_in * height), 77);
          std::vector<std::uint8_t> out(static_cast<std::size_t>(stride_out * 2 * height), 77);
          for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) {
              for (int c = 0; c < 3; ++c) {
                in[static_cast<std::size_t>(y * stride_in + 3 * x + (bgr_in ? 2 - c : c))] =
                    pixels[static_cast<std::size_t>((y * width + x) * 3 + c)];
              }
            }
          }
          const elir_image input =
              image(in.data(), width, height, stride_in, bgr_in ? ELIR_BGR8 : ELIR_RGB8);
          // Bottom up.
          const elir_image output = image(out.data() + stride_out * (2 * height - 1), 2 * width,
                                          2 * height, -stride_out, bgr_out ? ELIR_BGR8 : ELIR_RGB8);
          restorer.restore(input, output);
          for (int y = 0; y < 2 * height; ++y) {
            const std::uint8_t* row =
                &out[static_cast<std::size_t>((2 * height - 1 - y) * stride_out)];
            for (int x = 0; x < 2 * width; ++x) {
              for (int c = 0; c < 3; ++c) {
                ASSERT_EQ(row[3 * x + (bgr_out ? 2 - c : c)],
                          expected[static_cast<std::size_t>((y * 2 * width + x) * 3 + c)]);
              }
            }
            for (std::ptrdiff_t i = 6 * width; i < stride_out; ++i) ASSERT_EQ(row[i], 77);
          }
        }
      }
    }
  }
}

TEST_F(ApiTest, RunsOnTensors) {
  Restorer restorer(bundle({}), test::reference_params());
  const auto pixels = test::pattern(32, 32, 9);
  std::vector<std::uint8_t> expected(pixels.size());
  std::vector<std::uint8_t> actual(pixels.size());
  test::reference_model(pixels.data(), expected.data(), 32);
  check(elir_run(restorer.get(), pixels.data(), pixels.size(), actual.data(), actual.size()));
  EXPECT_EQ(actual, expected);
  EXPECT_EQ(elir_run(restorer.get(), pixels.data(), 5, actual.data(), actual.size()),
            ELIR_ERROR_USAGE);
  EXPECT_STREQ(elir_last_error(),
               "the input has 5 bytes, expected 3072 for image: uint8 1x32x32x3 NHWC");
}

TEST_F(ApiTest, WrongImages) {
  Restorer restorer(bundle({}), test::reference_params());
  std::vector<std::uint8_t> pixels(30 * 30 * 3);
  const elir_image good = test::image_of(pixels, 30, 30);
  const auto error_of = [&](elir_image input, elir_image output) {
    EXPECT_EQ(elir_restore(restorer.get(), &input, &output), ELIR_ERROR_IMAGE);
    return std::string(elir_last_error());
  };
  EXPECT_EQ(error_of(image(nullptr, 1, 1), good), "the data of the input is NULL");
  EXPECT_EQ(error_of(image(pixels.data(), 0, 1), good), "the input is 0x1, expected at least 1x1");
  EXPECT_EQ(error_of(image(pixels.data(), 30, 30, 89), good),
            "the input has a stride of 89 bytes, expected at least 90 for 30 pixels");
  EXPECT_EQ(
      error_of(image(pixels.data(), 30, 30, PTRDIFF_MIN), good),
      "the input has a stride of -9223372036854775808 bytes, expected at most 307445734561825860 "
      "for 30 rows");
  EXPECT_EQ(error_of(good, test::image_of(pixels, 29, 30)),
            "the output is 29x30, expected 30x30 for an input of 30x30");
  elir_image odd = good;
  const int nonsense = 9;
  std::memcpy(&odd.format, &nonsense, sizeof nonsense);
  EXPECT_EQ(error_of(odd, good), "the input has format 9, expected ELIR_RGB8 or ELIR_BGR8");
}

TEST_F(ApiTest, CudaMemoryIsUnavailable) {
  Restorer restorer(bundle({}), test::reference_params());
  std::vector<std::uint8_t> pixels(32 * 32 * 3);
  std::vector<std::uint8_t> result(pixels.size());
  const elir_image input = test::image_of(pixels, 32, 32);
  const elir_image output = test::image_of(result, 32, 32);
  elir_image other = input;
  other.memory = ELIR_MEMORY_CUDA;
  EXPECT_EQ(elir_restore(restorer.get(), &other, &output), ELIR_ERROR_UNAVAILABLE);
  EXPECT_STREQ(
      elir_last_error(),
      "the input is in CUDA memory, which reference does not support: copy it to host memory");
  EXPECT_EQ(elir_restore(restorer.get(), &input, &other), ELIR_ERROR_UNAVAILABLE);
  const auto done = [](void*, elir_status, const char*) { FAIL(); };
  EXPECT_EQ(elir_restore_async(restorer.get(), &other, &output, done, nullptr),
            ELIR_ERROR_UNAVAILABLE);
  const int nonsense = 9;
  std::memcpy(&other.memory, &nonsense, sizeof nonsense);
  EXPECT_EQ(elir_restore(restorer.get(), &other, &output), ELIR_ERROR_IMAGE);
  other = input;
  other.stream = pixels.data();
  EXPECT_EQ(elir_restore(restorer.get(), &other, &output), ELIR_ERROR_IMAGE);
}

TEST_F(ApiTest, FaceModelsRefuseTiles) {
  elir_params params = test::reference_params();
  params.fit = ELIR_FIT_TILE;
  const std::string path = bundle({32, false, false, true});
  std::vector<std::uint8_t> pixels(40 * 32 * 3);
  const elir_image image = test::image_of(pixels, 40, 32);
  std::vector<std::uint8_t> result(pixels.size());
  const elir_image output = test::image_of(result, 40, 32);
  Restorer restorer(path, params);
  EXPECT_EQ(elir_restore(restorer.get(), &image, &output), ELIR_ERROR_USAGE);
  EXPECT_EQ(std::string(elir_last_error()).find("the image is 40x32 "), 0U);
  params.force = 1;
  Restorer forced(path, params);
  forced.restore(image, output);
}

TEST_F(ApiTest, InvalidParams) {
  const std::string path = bundle({});
  elir_params params = test::reference_params();
  params.backend = "cuda";
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE).substr(0, 38),
            "no backend 'cuda': choose one of auto,");
  params.backend = "reference";
  params.precision = "bf16";
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
            "reference does not run in bf16: choose one of fp32, int8");
  params.precision = "fp16";
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
            path + " has no fp16 files for reference: choose one of fp32, int8");
  params = test::reference_params();
  params.struct_size = 8;
  EXPECT_NE(create_error(path, params, ELIR_ERROR_USAGE).find("struct_size is 8"),
            std::string::npos);
  params = test::reference_params();
  params.sigma_s = 0;
  const char* const baked =
      " is set, and the noise of this bundle is a constant of its graphs: export it with --noise "
      "field";
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
            std::string("elir_params.sigma_s") + baked);
  params = test::reference_params();
  params.seed = 0;
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE), std::string("elir_params.seed") + baked);
  params = test::reference_params();
  params.tile_overlap = 17;
  EXPECT_EQ(
      create_error(path, params, ELIR_ERROR_USAGE),
      "elir_params.tile_overlap is 17, expected at most 16, half the smallest side of a tile");
  params.tile_overlap = -2;
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
            "elir_params.tile_overlap is -2, expected -1 to 2147483647");
  params = test::reference_params();
  params.queue = 0;
  EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
            "elir_params.queue is 0, expected 1 to 1024");
}

TEST_F(ApiTest, NoiseIsChosen) {
  BundleOptions options;
  options.noise_stride = 8;
  const std::string path = bundle(options);
  elir_params params = test::reference_params();
  const auto pixels = test::pattern(50, 40, 0);
  const auto result = [&] {
    Restorer restorer(path, params);
    return restored(restorer, pixels, 50, 40);
  };
  const auto own = result();
  params.seed = 0;  // those of the bundle
  params.sigma_s = 0.025;
  EXPECT_EQ(result(), own);
  params.seed = 4294967295;
  EXPECT_NE(result(), own);
  params.seed = -1;
  params.sigma_s = 0.05;
  EXPECT_NE(result(), own);
  params.sigma_s = 0;
  EXPECT_NO_THROW(Restorer(path, params));
  const char* const sigma = ", expected a number >= 0 that fits float32";
  for (const double wrong : {-0.5, 1e39, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    params.sigma_s = wrong;
    EXPECT_NE(create_error(path, params, ELIR_ERROR_USAGE).find(sigma), std::string::npos) << wrong;
  }
  params.sigma_s = -1;
  for (const std::int64_t wrong : {std::int64_t{-2}, std::int64_t{1} << 32}) {
    params.seed = wrong;
    EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
              "the seed of the noise is " + std::to_string(wrong) + ", expected 0 to 4294967295");
  }
}

// Between the input, in the output's order of channels, and its restoration.
TEST_F(ApiTest, Strength) {
  const std::string path = bundle({});
  elir_params params = test::reference_params();
  auto pixels = test::pattern(50, 40, 0);
  std::vector<std::uint8_t> full(pixels.size());
  const elir_image input = test::image_of(pixels, 50, 40);
  elir_image output = test::image_of(full, 50, 40);
  output.format = ELIR_BGR8;
  Restorer(path, params).restore(input, output);
  for (const std::uint32_t weight : {0U, 1U, 100U, 255U, 256U}) {
    params.strength = (weight - 0.25) / 256;
    if (weight == 0) params.strength = 0;
    std::vector<std::uint8_t> expected(pixels.size());
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      const std::uint32_t before = pixels[i + 2 - 2 * (i % 3)];
      expected[i] =
          static_cast<std::uint8_t>((before * (256 - weight) + full[i] * weight + 128) / 256);
    }
    std::vector<std::uint8_t> result(pixels.size(), 77);
    output.data = result.data();
    Restorer(path, params).restore(input, output);
    EXPECT_EQ(result, expected) << weight;
  }
  for (const double wrong : {-0.1, 1.1, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    params.strength = wrong;
    EXPECT_EQ(create_error(path, params, ELIR_ERROR_USAGE),
              core::text("strength is ", wrong, ", expected 0 to 1"));
  }
}

// elir_run takes a full batch of the first shape.
TEST_F(ApiTest, RunOfABatch) {
  BundleOptions options;
  options.noise_stride = 8;
  options.shapes = R"([{"batch": 3, "height": 30, "width": 40,
                        "padded_height": 32, "padded_width": 48},
                       {"batch": 1, "height": 64, "width": 64}])";
  Restorer restorer(bundle(options), test::reference_params());
  const elir_description description = restorer.describe();
  ASSERT_EQ(description.shape_count, 2);
  EXPECT_EQ(description.largest_batch, 3);
  EXPECT_EQ(description.shapes[0].height, 30);
  EXPECT_EQ(description.shapes[0].width, 40);
  const std::vector<std::int32_t> expected = {3, 32, 48, 3};
  EXPECT_EQ(std::vector<std::int32_t>(description.input.shape, description.input.shape + 4),
            expected);
  const auto images = test::pattern(48, 3 * 32, 1);
  ASSERT_EQ(description.input.bytes, images.size());
  std::vector<std::uint8_t> result(images.size());
  check(elir_run(restorer.get(), images.data(), images.size(), result.data(), result.size()));
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<std::uint8_t> image;  // the part of its size
    std::vector<std::uint8_t> part;
    for (std::size_t y = 32 * i; y < 32 * i + 32; ++y) {
      const auto row = static_cast<std::ptrdiff_t>(3 * 48 * y);
      image.insert(image.end(), images.begin() + row, images.begin() + row + 3 * 48);
      part.insert(part.end(), result.begin() + row, result.begin() + row + 3 * 48);
    }
    EXPECT_EQ(restored(restorer, image, 48, 32), part) << i;
  }
}

// Longer than any message, or not UTF-8: the error is one valid line.
TEST_F(ApiTest, HostileNames) {
  elir_restorer* restorer = nullptr;
  for (const std::string& name : {std::string(2048, '\x80'), std::string(100000, '\x80'),
                                  std::string(2047, 'x') + "\xF0\x9F\x98\x80"}) {
    EXPECT_EQ(elir_create(name.c_str(), nullptr, &restorer), ELIR_ERROR_BUNDLE);
    EXPECT_EQ(std::string(elir_last_error()).size(), 2047U);
  }
  EXPECT_EQ(elir_create("/a\nb\x1b[2J\xff", nullptr, &restorer), ELIR_ERROR_BUNDLE);
  EXPECT_EQ(std::string(elir_last_error()).find("/a b [2J? is not the folder"), 0U);
}

// Structs of programs with a newer or an older header.
TEST_F(ApiTest, StructsOfOtherVersions) {
  struct Newer {
    elir_params known;
    int added[3];
  } newer;
  std::memset(&newer, 77, sizeof newer);
  elir_init_params(&newer.known, sizeof newer);
  EXPECT_EQ(newer.known.struct_size, sizeof newer);
  EXPECT_EQ(newer.known.queue, 2);
  EXPECT_EQ(newer.known.strength, 1);
  for (const int field : newer.added) EXPECT_EQ(field, 0);
  newer.known.backend = "reference";
  const std::string path = bundle({});
  EXPECT_NO_THROW(Restorer(path, newer.known));
  newer.added[2] = 1;
  EXPECT_EQ(create_error(path, newer.known, ELIR_ERROR_USAGE),
            std::string("elir_params sets a field that this libelir ") + elir_version() +
                " does not know: upgrade libelir");

  elir_params older;
  std::memset(&older, 77, sizeof older);
  elir_init_params(&older, offsetof(elir_params, queue));
  EXPECT_EQ(older.struct_size, offsetof(elir_params, queue));
  EXPECT_EQ(older.skip_accuracy_check, 0);
  EXPECT_EQ(older.queue, 0x4D4D4D4D) << "beyond its end";
  std::memset(&older, 77, sizeof older);  // of version 0.1, which ends before sigma_s
  elir_init_params(&older, offsetof(elir_params, sigma_s));
  older.backend = "reference";
  EXPECT_NO_THROW(Restorer(path, older)) << "the fields beyond its end are not read";
  std::memset(&older, 0, sizeof older);
  elir_init_params(&older, offsetof(elir_params, strength));
  older.backend = "reference";
  Restorer of_older(path, older);
  Restorer of_newer(path, test::reference_params());
  const auto pixels = test::pattern(40, 40, 1);
  EXPECT_EQ(restored(of_older, pixels, 40, 40), restored(of_newer, pixels, 40, 40));

  struct NewerDescription {
    elir_description known;
    int added[3];
  } actual;
  std::memset(&actual, 77, sizeof actual);
  actual.known.struct_size = sizeof actual;
  Restorer restorer(path, test::reference_params());
  check(elir_describe(restorer.get(), &actual.known));
  EXPECT_EQ(actual.known.struct_size, sizeof actual);
  EXPECT_STREQ(actual.known.task, "tiny");
  for (const int field : actual.added) EXPECT_EQ(field, 0);
}

// The pictures are invalid: an error with PNG support, without it a warning that they are not used.
TEST_F(ApiTest, ReducedPrecisionsAreCheckedOrTheLogWarns) {
  BundleOptions options;
  options.references = true;
  elir_params params = test::reference_params();
  params.precision = "int8";
  std::vector<std::string> actual;
  params.log_user = &actual;
  params.log = [](void* user, elir_log_level, const char* message) {
    static_cast<std::vector<std::string>*>(user)->push_back(message);
  };
  const std::string path = bundle(options);
  if (core::reads_png()) {
    EXPECT_EQ(create_error(path, params, ELIR_ERROR_BUNDLE).find(path + "/in.png cannot be read: "),
              0U);
    return;
  }
  const Restorer restorer(path, params);
  ASSERT_EQ(actual.size(), 2U);
  EXPECT_EQ(
      actual[0],
      "the accuracy of int8 on reference was not checked: this libelir was built without PNG");
}

TEST_F(ApiTest, ABackendThatIsNotBuiltIn) {
  if (std::string(elir_backends()).find("tensorrt-rtx") != std::string::npos) GTEST_SKIP();
  elir_params params = elir_default_params();
  params.backend = "tensorrt-rtx";
  EXPECT_EQ(create_error(bundle({}), params, ELIR_ERROR_UNAVAILABLE),
            "tensorrt-rtx cannot be used: this libelir was built without it: configure with "
            "-DELIR_WITH_TENSORRT_RTX=ON");
}

TEST_F(ApiTest, ADeviceOfABackendThatIsNotBuiltIn) {
  if (std::string(elir_backends()).find("openvino") != std::string::npos) GTEST_SKIP();
  elir_params params = elir_default_params();
  params.device_name = "GPU";
  EXPECT_EQ(create_error(bundle({}), params, ELIR_ERROR_UNAVAILABLE),
            "openvino cannot be used: this libelir was built without it: configure with "
            "-DELIR_WITH_OPENVINO=ON");
}

TEST_F(ApiTest, InvalidSizes) {
  Restorer restorer(bundle({32, false, false, false, 4, "bicubic"}), test::reference_params());
  EXPECT_EQ(restorer.output_size(10, 20).height, 80);
  EXPECT_THROW(restorer.output_size(1 << 30, 1), Error);
  EXPECT_THROW(restorer.output_size(0, 1), Error);
}

TEST_F(ApiTest, LogsBackendAndPrecision) {
  elir_params params = test::reference_params();
  std::string actual;
  params.log_user = &actual;
  params.log = [](void* user, elir_log_level level, const char* message) {
    EXPECT_EQ(level, ELIR_LOG_INFO);
    *static_cast<std::string*>(user) += message;
  };
  const std::string path = bundle({});
  Restorer restorer(path, params);
  EXPECT_EQ(actual, "tiny: reference, fp32");
}

// For LeakSanitizer in the sanitized build.
TEST_F(ApiTest, ThousandRestorers) {
  const std::string path = bundle({});
  const auto pixels = test::pattern(40, 40, 1);
  for (int i = 0; i < 1000; ++i) {
    Restorer restorer(path, test::reference_params());
    if (i % 10 == 0) restored(restorer, pixels, 40, 40);
  }
}

}  // namespace
}  // namespace elir
