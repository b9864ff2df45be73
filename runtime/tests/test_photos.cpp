// Photographs through the API, on the reference backend, compared with the Python runtime's
// results: tests/golden/photos.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <elir/elir.hpp>
#include <limits>
#include <thread>

#include "golden.hpp"
#include "support.hpp"

namespace elir {
namespace {

using test::BundleOptions;
using test::Golden;

const Golden& photos() { return test::golden("photos.json"); }

class PhotosTest : public ::testing::Test {
 protected:
  std::string bundle(int side, bool faces = true) {
    BundleOptions options;
    options.side = side;
    options.faces = faces;
    options.detector = test::detector_graph();
    const auto folder = folder_.path() / std::to_string(side);
    test::write_bundle(folder, options);
    return folder.string();
  }
  Restorer opened(int side = 64) { return Restorer(bundle(side), test::reference_params()); }

  test::Folder folder_;
};

std::vector<elir_face> faces_of(const Golden& places) {
  std::vector<elir_face> faces;
  for (const std::size_t place : places) {
    elir_face face{};
    for (std::size_t i = 0; i < 10; ++i) {
      face.landmarks[i / 2][i % 2] = photos()["places"][place][i].get<double>() / 64;
    }
    faces.push_back(face);
  }
  return faces;
}

// A picture with the channels of every pixel reversed.
std::vector<std::uint8_t> reversed(std::vector<std::uint8_t> pixels) {
  for (std::size_t i = 0; i < pixels.size(); i += 3) std::swap(pixels[i], pixels[i + 2]);
  return pixels;
}

TEST_F(PhotosTest, ListedFacesAsInPython) {
  const int width = photos()["picture"]["width"];
  const int height = photos()["picture"]["height"];
  const auto pixels = test::pattern(static_cast<std::size_t>(width),
                                    static_cast<std::size_t>(height), photos()["picture"]["seed"]);
  auto around = test::pattern(100, 100, 5);
  const elir_image background = test::image_of(around, 100, 100);
  for (const Golden& golden : photos()["restored"]) {
    const int scale = golden["scale"];
    Restorer restorer = opened(golden["side"]);
    const auto faces = faces_of(golden["places"]);
    for (const bool bgr : {false, true}) {
      auto source = bgr ? reversed(pixels) : pixels;
      elir_image input = test::image_of(source, width, height);
      input.format = bgr ? ELIR_BGR8 : ELIR_RGB8;
      std::vector<std::uint8_t> result(pixels.size() * static_cast<std::size_t>(scale * scale));
      elir_image output = test::image_of(result, scale * width, scale * height);
      output.format = bgr ? ELIR_RGB8 : ELIR_BGR8;
      const auto all_faces = restorer.restore_photo(input, output, faces,
                                                    golden["background"] ? &background : nullptr);
      EXPECT_EQ(test::digest(bgr ? result : reversed(result)), golden["output"]) << golden;
      ASSERT_EQ(all_faces.size(), faces.size());
      for (std::size_t i = 0; i < all_faces.size(); ++i) {
        EXPECT_EQ(all_faces[i].restored != 0, golden["restored"][i]) << golden;
        EXPECT_EQ(std::strlen(all_faces[i].reason) == 0, all_faces[i].restored != 0);
      }
    }
  }
}

// Images and photographs in one queue, with lists and backgrounds that are gone when they run.
TEST_F(PhotosTest, AsyncAsTheSynchronousCalls) {
  elir_params params = test::reference_params();
  params.queue = 40;
  Restorer restorer(bundle(64), params);
  std::vector<std::vector<std::uint8_t>> inputs;
  for (int i = 0; i < 12; ++i)
    inputs.push_back(test::spots(200, 160, {{40 + 4 * i, 60}, {120, 100}}));
  auto around = test::pattern(100, 80, 5);
  std::vector<std::vector<std::uint8_t>> results(inputs.size());
  std::vector<std::size_t> order;
  std::vector<std::vector<elir_face>> faces(inputs.size());
  const auto output_of = [&](std::size_t i, std::vector<std::uint8_t>& result) {
    const int scale = i % 3 == 1 ? 2 : 1;
    result.resize(inputs[i].size() * static_cast<std::size_t>(scale * scale));
    return test::image_of(result, 200 * scale, 160 * scale);
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const elir_image input = test::image_of(inputs[i], 200, 160);
    const elir_image output = output_of(i, results[i]);
    if (i % 3 == 0) {  // an image
      ASSERT_TRUE(restorer.restore_async(input, output, [&order, i](elir_status status, auto) {
        EXPECT_EQ(status, ELIR_OK);
        order.push_back(i);
      }));
      continue;
    }
    const auto list = restorer.detect(input);
    const elir_image background = test::image_of(around, 100, 80);
    elir_photo_params photo{sizeof photo, ELIR_FACES_ALL, nullptr, 0, nullptr};
    if (i % 3 == 2) {
      photo = {sizeof photo, ELIR_FACES_LIST, list.data(), 1, &background};
    }
    ASSERT_TRUE(restorer.restore_photo_async(
        input, output,
        [&, i](elir_status status, const char* message, const std::vector<elir_face>& all) {
          EXPECT_EQ(status, ELIR_OK) << message;
          order.push_back(i);
          faces[i] = all;
        },
        photo));
  }
  restorer.wait();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(order.at(i), i);
    const elir_image input = test::image_of(inputs[i], 200, 160);
    std::vector<std::uint8_t> expected;
    const elir_image output = output_of(i, expected);
    std::vector<elir_face> all;
    if (i % 3 == 0) {
      restorer.restore(input, output);
    } else if (i % 3 == 1) {
      all = restorer.restore_photo(input, output, ELIR_FACES_ALL);
    } else {
      const elir_image background = test::image_of(around, 100, 80);
      all = restorer.restore_photo(input, output, {restorer.detect(input).front()}, &background);
    }
    EXPECT_EQ(results[i], expected) << i;
    ASSERT_EQ(faces[i].size(), all.size());
    for (std::size_t k = 0; k < all.size(); ++k) {
      EXPECT_EQ(faces[i][k].restored, all[k].restored);
      EXPECT_EQ(faces[i][k].box[0], all[k].box[0]);
    }
  }
}

TEST_F(PhotosTest, AsyncMistakes) {
  elir_params params = test::reference_params();
  params.queue = 1;
  const std::string path = bundle(64);
  Restorer restorer(path, params);
  auto pixels = test::spots(200, 160, {{40, 60}});
  auto result = pixels;
  const elir_image input = test::image_of(pixels, 200, 160);
  const elir_image output = test::image_of(result, 200, 160);
  const auto never = [](elir_status, const char*, const std::vector<elir_face>&) { FAIL(); };
  const auto status_of = [&](const elir_image& to, const elir_photo_params& photo) {
    try {
      restorer.restore_photo_async(input, to, never, photo);
    } catch (const Error& error) {
      return error.status();
    }
    return ELIR_OK;
  };
  elir_image wrong = output;
  wrong.width = 100;
  EXPECT_EQ(status_of(wrong, {sizeof(elir_photo_params), ELIR_FACES_ALL, nullptr, 0, nullptr}),
            ELIR_ERROR_IMAGE);
  elir_face bad{};
  bad.landmarks[2][1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(status_of(output, {sizeof(elir_photo_params), ELIR_FACES_LIST, &bad, 1, nullptr}),
            ELIR_ERROR_IMAGE);
  EXPECT_EQ(elir_restore_photo_async(restorer.get(), nullptr, &input, &output, nullptr, 0, nullptr,
                                     nullptr, nullptr),
            ELIR_ERROR_USAGE);
  // Later errors go to the callback: here the detector's file, read with the first search.
  test::write_file(std::filesystem::path(path) / "detector" / "centerface.onnx",
                   std::string(test::detector_graph().size(), 'x'));
  Restorer damaged(path, params);
  elir_status told = ELIR_OK;
  ASSERT_TRUE(damaged.restore_photo_async(
      input, output, [&](elir_status status, const char* message, const auto& faces) {
        told = status;
        EXPECT_NE(std::string(message).find("is damaged"), std::string::npos) << message;
        EXPECT_TRUE(faces.empty());
      }));
  damaged.wait();
  EXPECT_EQ(told, ELIR_ERROR_BUNDLE);
}

TEST_F(PhotosTest, AtStrength0NothingRuns) {
  elir_params params = test::reference_params();
  params.strength = 0.001;
  const std::string path = bundle(64);
  Restorer restorer(path, params);
  auto pixels = test::spots(400, 300, {{100, 100}, {300, 160}});
  const elir_image input = test::image_of(pixels, 400, 300);
  std::vector<std::uint8_t> result(pixels.size());
  const elir_image output = test::image_of(result, 400, 300);
  const auto faces = restorer.detect(input);
  ASSERT_EQ(faces.size(), 2U);
  // The detector's file is read when it is first needed.
  test::write_file(std::filesystem::path(path) / "detector" / "centerface.onnx",
                   std::string(test::detector_graph().size(), 'x'));
  Restorer other(path, params);
  auto around = test::pattern(400, 300, 3);
  const elir_image background = test::image_of(around, 400, 300);
  EXPECT_TRUE(other.restore_photo(input, output, ELIR_FACES_ALL, &background).empty());
  EXPECT_EQ(result, pixels);
  const auto listed = other.restore_photo(input, output, faces, &background);
  EXPECT_EQ(result, pixels);
  ASSERT_EQ(listed.size(), 2U);
  for (const elir_face& face : listed) {
    EXPECT_EQ(face.restored, 0);
    EXPECT_STREQ(face.reason, "");
  }
}

TEST_F(PhotosTest, Choices) {
  Restorer restorer = opened();
  auto pixels = test::spots(400, 300, {{100, 100}, {300, 160}, {120, 248}});
  const elir_image input = test::image_of(pixels, 400, 300);
  auto result = pixels;
  const elir_image output = test::image_of(result, 400, 300);
  const auto all_faces = restorer.detect(input);
  ASSERT_EQ(all_faces.size(), 3U);
  for (const elir_face& face : all_faces) {
    EXPECT_EQ(face.box[2] - face.box[0], 70);
    EXPECT_EQ(face.score, 1);
    EXPECT_STREQ(face.reason, "");
    EXPECT_EQ(face.restored, 0);
  }
  const auto restored = [&](elir_faces choice) {
    std::string marks;
    for (const elir_face& face : restorer.restore_photo(input, output, choice)) {
      EXPECT_EQ(face.reason[0] == '\0', face.restored != 0);
      marks += face.restored != 0 ? '1' : '0';
    }
    return marks;
  };
  EXPECT_EQ(restored(ELIR_FACES_AUTO), "111");
  const auto all = result;
  EXPECT_EQ(restored(ELIR_FACES_ALL), "111");
  EXPECT_EQ(result, all);
  const std::string largest = restored(ELIR_FACES_LARGEST);
  EXPECT_EQ(std::count(largest.begin(), largest.end(), '1'), 1);
  EXPECT_EQ(restored(ELIR_FACES_CENTRE).size(), 3U);
  restorer.restore_photo(input, output, all_faces);
  EXPECT_EQ(result, all);
  EXPECT_EQ(restored(ELIR_FACES_ALIGNED), "");
  auto square = pixels;
  restorer.restore(input, test::image_of(square, 400, 300));
  EXPECT_EQ(result, square);
}

TEST_F(PhotosTest, AnAlignedPicture) {
  Restorer restorer = opened();
  for (const int side : {128, 200}) {
    auto pixels = test::spots(side, side, {{side / 2, side / 2}});
    auto result = pixels;
    auto plain = pixels;
    const elir_image input = test::image_of(pixels, side, side);
    const auto all_faces = restorer.restore_photo(input, test::image_of(result, side, side));
    restorer.restore(input, test::image_of(plain, side, side));
    ASSERT_EQ(all_faces.size(), 1U);
    EXPECT_EQ(all_faces[0].restored, 1);
    EXPECT_EQ(result == plain, side == 128);
  }
}

TEST_F(PhotosTest, NoFace) {
  Restorer restorer = opened();
  auto pixels = test::spots(90, 70, {});
  std::vector<std::uint8_t> result(pixels.size());
  EXPECT_TRUE(restorer.restore_photo(test::image_of(pixels, 90, 70), test::image_of(result, 90, 70))
                  .empty());
  EXPECT_EQ(result, pixels);
}

TEST_F(PhotosTest, TheBackgroundMayBeTheOutput) {
  Restorer restorer = opened();
  auto pixels = test::spots(90, 70, {});
  auto around = test::pattern(90, 70, 7);
  auto result = around;
  const elir_image input = test::image_of(pixels, 90, 70);
  const elir_image output = test::image_of(result, 90, 70);
  restorer.restore_photo(input, output, ELIR_FACES_ALL, &output);
  EXPECT_EQ(result, around);
}

TEST_F(PhotosTest, FewerFacesThanThereAre) {
  Restorer restorer = opened();
  auto pixels = test::spots(400, 300, {{100, 100}, {300, 160}});
  const elir_image image = test::image_of(pixels, 400, 300);
  elir_face face{};
  std::size_t count = 0;
  ASSERT_EQ(elir_detect(restorer.get(), &image, &face, 1, &count), ELIR_OK);
  EXPECT_EQ(count, 2U);
  EXPECT_EQ(face.box[2] - face.box[0], 70);
  ASSERT_EQ(elir_detect(restorer.get(), &image, nullptr, 0, &count), ELIR_OK);
  EXPECT_EQ(count, 2U);
}

TEST_F(PhotosTest, Threads) {
  Restorer restorer = opened();
  auto pixels = test::spots(400, 300, {{100, 100}, {300, 160}, {120, 248}});
  const elir_image input = test::image_of(pixels, 400, 300);
  std::vector<std::vector<std::uint8_t>> results(4, pixels);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3; ++i) restorer.restore_photo(input, test::image_of(result, 400, 300));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, results.front());
  EXPECT_NE(results.front(), pixels);
}

struct Misuse {
  const char* name;
  void (*change)(elir_photo_params& params, elir_image& output, elir_face& face);
  elir_status status;
  const char* message;
};

class PhotoMisuse : public PhotosTest, public ::testing::WithParamInterface<Misuse> {};

TEST_P(PhotoMisuse, IsAnError) {
  Restorer restorer = opened();
  auto pixels = test::spots(90, 70, {});
  auto result = pixels;
  const elir_image input = test::image_of(pixels, 90, 70);
  elir_image output = test::image_of(result, 90, 70);
  elir_face face = faces_of(Golden{0}).front();
  elir_photo_params params = {sizeof params, ELIR_FACES_LIST, &face, 1, nullptr};
  GetParam().change(params, output, face);
  EXPECT_EQ(elir_restore_photo(restorer.get(), &params, &input, &output, nullptr, 0, nullptr),
            GetParam().status);
  if (GetParam().status != ELIR_OK) {
    EXPECT_NE(std::string(elir_last_error()).find(GetParam().message), std::string::npos)
        << elir_last_error();
  }
}

elir_image no_image = {};

INSTANTIATE_TEST_SUITE_P(
    All, PhotoMisuse,
    ::testing::Values(
        Misuse{"None", [](elir_photo_params&, elir_image&, elir_face&) {}, ELIR_OK, ""},
        Misuse{"OldStruct",
               [](elir_photo_params& params, elir_image&, elir_face&) { params.struct_size = 8; },
               ELIR_ERROR_USAGE, "elir_photo_params.struct_size is 8, expected at least"},
        Misuse{"Choice",
               [](elir_photo_params& params, elir_image&, elir_face&) {
                 const int number = 9;
                 std::memcpy(&params.faces, &number, sizeof number);
               },
               ELIR_ERROR_USAGE, "elir_photo_params.faces is 9, expected 0 to 5"},
        Misuse{"ListedAndSearched",
               [](elir_photo_params& params, elir_image&, elir_face&) {
                 params.faces = ELIR_FACES_ALL;
               },
               ELIR_ERROR_USAGE, "face_list is set, expected NULL unless"},
        Misuse{
            "NoList",
            [](elir_photo_params& params, elir_image&, elir_face&) { params.face_list = nullptr; },
            ELIR_ERROR_USAGE, "face_list is NULL, expected 1 faces"},
        Misuse{
            "Scale", [](elir_photo_params&, elir_image& output, elir_face&) { output.width = 89; },
            ELIR_ERROR_IMAGE, "the output is 89x70, expected 1, 2 or 4 times the input of 90x70"},
        Misuse{"Background",
               [](elir_photo_params& params, elir_image&, elir_face&) {
                 params.background = &no_image;
               },
               ELIR_ERROR_IMAGE, "the data of the background is NULL"},
        Misuse{"NaN",
               [](elir_photo_params&, elir_image&, elir_face& face) {
                 face.landmarks[2][1] = std::numeric_limits<double>::quiet_NaN();
               },
               ELIR_ERROR_IMAGE, "a face has the coordinate nan, expected -1048576 to 1048576"},
        Misuse{"TooFar",
               [](elir_photo_params&, elir_image&, elir_face& face) { face.box[0] = -2e6; },
               ELIR_ERROR_IMAGE, "a face has the coordinate -2e+06"}),
    [](const auto& each) { return each.param.name; });

TEST_F(PhotosTest, ExtremeFacesAreLeftAloneOrRestored) {
  Restorer restorer = opened();
  auto pixels = test::spots(90, 70, {});
  std::vector<std::uint8_t> result(16 * pixels.size());
  std::vector<elir_face> faces;
  for (const double far : {1.0, 7.0, 300.0, 1e5, 1048000.0}) {
    for (int corner = 0; corner < 32; ++corner) {
      elir_face face{};
      for (int i = 0; i < 5; ++i) {
        face.landmarks[i][0] = ((corner >> i) & 1) != 0 ? far : -far;
        face.landmarks[i][1] = ((corner * 7 >> (4 - i)) & 1) != 0 ? far : far / 3;
      }
      faces.push_back(face);
      face = faces_of(Golden{0}).front();
      face.landmarks[corner % 5][corner / 5 % 2] += far;
      for (double& edge : face.box) edge = far;
      faces.push_back(face);
    }
  }
  const auto all_faces = restorer.restore_photo(test::image_of(pixels, 90, 70),
                                                test::image_of(result, 360, 280), faces);
  EXPECT_EQ(all_faces.size(), faces.size());
}

TEST_F(PhotosTest, BundlesThatRestoreNoPhotographs) {
  auto pixels = test::spots(90, 70, {});
  auto result = pixels;
  const auto error_of = [&](const std::string& path, elir_params params) {
    try {
      Restorer restorer(path, params);
      restorer.restore_photo(test::image_of(pixels, 90, 70), test::image_of(result, 90, 70));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(error_of(bundle(48, false), test::reference_params())
                .find("expected one that restores squares of aligned faces"),
            std::string::npos);
  EXPECT_NE(
      error_of(bundle(8), test::reference_params()).find("expected one that restores squares"),
      std::string::npos);
  test::write_bundle(folder_.path() / "none", {64, false, false, true});
  EXPECT_NE(error_of((folder_.path() / "none").string(), test::reference_params())
                .find("has no face detector: export it again with --detector centerface"),
            std::string::npos);
  test::write_bundle(folder_.path() / "any", {64});
  EXPECT_NE(error_of((folder_.path() / "any").string(), test::reference_params())
                .find("which restores the whole picture; use a bundle of faces, such as bfr"),
            std::string::npos);
  elir_params params = test::reference_params();
  params.long_side = 20;
  EXPECT_EQ(error_of(bundle(64), params), "the detector's long side is 20, expected 32 to 4096");
  EXPECT_THROW(Restorer(bundle(64), params), Error) << "when it is opened, as in Python";
  params.long_side = 5000;
  EXPECT_EQ(error_of(bundle(64), params), "elir_params.long_side is 5000, expected 0 to 4096");
}

}  // namespace
}  // namespace elir
