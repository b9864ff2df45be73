#include "restoring.hpp"

#include <algorithm>

#include "../detector_graph.hpp"
#include "../error.hpp"
#include "../guard.hpp"
#include "../text.hpp"
#include "opening.hpp"

namespace elir::core {
namespace {

constexpr std::int64_t kMinSide = 16;  // of a square, so that a mask has a rim

Photograph photograph(const elir_image& image) { return {view(image), image.format == ELIR_BGR8}; }

// How much larger the output is than the input.
std::int64_t scale_of(const elir_image& input, const elir_image& output) {
  for (const std::int64_t scale : {1, 2, 4}) {
    if (output.width == scale * input.width && output.height == scale * input.height) return scale;
  }
  throw image_error("the output is ", output.width, "x", output.height,
                    ", expected 1, 2 or 4 times the input of ", input.width, "x", input.height);
}

void check_faces(const elir_photo_params& params) {
  const int choice = raw(params.faces);
  if (choice < ELIR_FACES_AUTO || choice > ELIR_FACES_LIST) {
    throw usage_error("elir_photo_params.faces is ", choice, ", expected ", int{ELIR_FACES_AUTO},
                      " to ", int{ELIR_FACES_LIST});
  }
  if (choice != ELIR_FACES_LIST && params.face_list != nullptr) {
    throw usage_error(
        "elir_photo_params.face_list is set, expected NULL unless .faces is "
        "ELIR_FACES_LIST");
  }
  if (choice == ELIR_FACES_LIST && params.face_count > 0 && params.face_list == nullptr) {
    throw usage_error("elir_photo_params.face_list is NULL, expected ", params.face_count,
                      " faces");
  }
}

std::vector<Face> listed_faces(const elir_photo_params& params) {
  std::vector<Face> faces;
  if (params.faces == ELIR_FACES_LIST) {
    std::transform(params.face_list, params.face_list + params.face_count,
                   std::back_inserter(faces), read_face);
  }
  return faces;
}

// Fills the output with the picture, enlarged, or with what is to be seen around the faces.
void fill(const elir_image& input, const elir_image* background, const elir_image& output,
          std::int64_t scale) {
  const elir_image& source = background == nullptr ? input : *background;
  const Pixels sink = view(output);
  const bool whole = source.width == output.width && source.height == output.height;
  Scratch scratch;
  if (whole) {
    if (source.data != output.data) copy(view(source), sink);
  } else if (background != nullptr) {
    resize_into(view(source), sink, scratch);
  } else {
    const EnlargedPicture enlarged(view(input), false, static_cast<int>(scale), Kernel::bicubic);
    constexpr std::size_t kRows = 64;
    for (std::size_t top = 0; top < sink.height; top += kRows) {
      const std::size_t rows = std::min(kRows, sink.height - top);
      enlarged.block(0, top, sink.part(0, top, sink.width, rows), scratch);
    }
  }
  if (source.format != output.format) swap_channels(sink);
}

void check_photograph(const elir_image& image, const char* what) {
  check_image(image, what);
  check_on_host(image, what, "where no faces are found or put back");
}

}  // namespace

PhotoRestorer::PhotoRestorer(Restorer& restorer, const Setup& setup, std::int64_t long_side)
    : restorer_(restorer), setup_(setup), long_side_(long_side) {
  const auto& detector = restorer.manifest().detector;
  if (long_side != 0 && detector) check_long_side(*detector, long_side);
}

std::vector<Face> PhotoRestorer::detect(const elir_image& image) {
  check_photograph(image, "image");
  return find(photograph(image));
}

void PhotoRestorer::check(const elir_photo_params& params, const elir_image& input,
                          const elir_image& output) const {
  check_photograph(input, "input");
  check_photograph(output, "output");
  if (params.background != nullptr) check_photograph(*params.background, "background");
  check_faces(params);
  static_cast<void>(listed_faces(params));
  static_cast<void>(scale_of(input, output));
  static_cast<void>(convention_of(detector_of(restorer_.bundle())));
  static_cast<void>(square());
}

std::vector<Face> PhotoRestorer::restore(const elir_photo_params& params, const elir_image& input,
                                         const elir_image& output) {
  const std::int64_t scale = scale_of(input, output);
  // At strength 0 the picture is not even searched for faces.
  std::vector<Face> faces = restorer_.strength().none()
                                ? listed_faces(params)
                                : restore_fully(params, input, output, scale);
  // In the order of the output's channels.
  const EnlargedPicture before(view(input), input.format != output.format, static_cast<int>(scale),
                               scale == 1 ? Kernel::none : Kernel::bicubic);
  Scratch scratch;
  restorer_.strength().blend(before, view(output), scratch);
  return faces;
}

std::vector<Face> PhotoRestorer::restore_fully(const elir_photo_params& params,
                                               const elir_image& input, const elir_image& output,
                                               std::int64_t scale) {
  const Template& aligned = detector_of(restorer_.bundle()).aligned;
  if (params.faces == ELIR_FACES_ALIGNED) {
    restore_aligned(input, output);
    return {};
  }
  std::vector<Face> faces =
      params.faces == ELIR_FACES_LIST ? listed_faces(params) : find(photograph(input));
  const auto width = static_cast<std::size_t>(input.width);
  const auto height = static_cast<std::size_t>(input.height);
  if (params.faces == ELIR_FACES_AUTO && is_aligned(faces, width, height, aligned)) {
    restore_aligned(input, output);
    faces.front().restored = true;
    return faces;
  }
  choose(faces, params.faces, width, height);
  fill(input, params.background, output, scale);
  restore_faces(faces, input, output, scale);
  return faces;
}

std::vector<Face> PhotoRestorer::find(const Photograph& picture) {
  const Detector& detector = detector_of(restorer_.bundle());
  const std::int64_t long_side = long_side_ == 0 ? detector.long_side : long_side_;
  check_long_side(detector, long_side);
  const std::lock_guard lock(mutex_);
  if (!network_) {
    network_ = open_detector(restorer_.backend(), restorer_.bundle(), setup_, long_side);
  }
  std::vector<Face> faces = find_faces(picture, detector, *network_, long_side);
  if (faces.size() > kMaxFaces) {
    setup_.log.warn(text("the picture has more than ", kMaxFaces,
                         " faces: those of lower scores are left out"));
    faces.resize(kMaxFaces);
  }
  return faces;
}

// The shape of the squares that the bundle restores.
const Shape& PhotoRestorer::square() const {
  const Manifest& manifest = restorer_.manifest();
  for (const Shape& shape : manifest.shapes) {
    if (manifest.faces && manifest.upscale == 1 && shape.height == shape.width &&
        shape.height >= kMinSide) {
      return shape;
    }
  }
  throw usage_error("the bundle is of ", manifest.task,
                    ", expected one that restores squares of aligned faces, such as bfr");
}

// Of squares of the model's size.
const Comparison& PhotoRestorer::comparison() {
  std::call_once(compared_,
                 [this] { comparison_ = std::make_unique<Comparison>(square().height); });
  return *comparison_;
}

// The picture as one square, brought to the model's size and back.
void PhotoRestorer::restore_aligned(const elir_image& input, const elir_image& output) {
  const Shape& shape = square();
  const auto side = static_cast<std::size_t>(shape.height);
  std::vector<std::uint8_t> pixels(kChannels * side * side);
  const Pixels whole = packed(pixels.data(), side, side);
  Scratch scratch;
  resize_to({view(input), input.format == ELIR_BGR8, 1, Kernel::none}, whole, scratch);
  restorer_.run_squares(shape, pixels.data(), pixels.data(), 1);
  if (output.format == ELIR_BGR8) swap_channels(whole);
  resize_into(whole, view(output), scratch);
}

void PhotoRestorer::restore_faces(std::vector<Face>& faces, const elir_image& input,
                                  const elir_image& output, std::int64_t scale) {
  if (std::all_of(faces.begin(), faces.end(), [](const Face& face) { return face.reason; })) return;
  const Shape& shape = square();
  std::vector<Similarity> places = align(faces, comparison().ellipse(), output, scale);
  // The nearer of overlapping faces comes last.
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.squared() < b.squared(); });
  const auto batch = static_cast<std::size_t>(shape.batch);
  for (std::size_t first = 0; first < places.size(); first += batch) {
    restore_group(&places[first], std::min(batch, places.size() - first), photograph(input), output,
                  scale);
  }
}

void PhotoRestorer::restore_group(const Similarity* places, std::size_t count,
                                  const Photograph& picture, const elir_image& output,
                                  std::int64_t scale) {
  const Shape& shape = square();
  const auto side = static_cast<std::size_t>(shape.height);
  const std::size_t bytes = kChannels * side * side;
  std::vector<std::uint8_t> crops(count * bytes);
  for (std::size_t i = 0; i < count; ++i) {
    crop(picture, places[i].shrunk(scale), packed(&crops[i * bytes], side, side));
  }
  std::vector<std::uint8_t> restored(crops.size());
  restorer_.run_squares(shape, crops.data(), restored.data(), count);
  const EnlargedPicture enlarged(picture.pixels, picture.bgr, static_cast<int>(scale),
                                 scale == 1 ? Kernel::none : Kernel::bicubic);
  Scratch scratch;
  for (std::size_t i = 0; i < count; ++i) {
    const Similarity& similarity = places[i];
    paste(enlarged, similarity, comparison().ellipse(),
          comparison().compare(&crops[i * bytes], &restored[i * bytes], similarity), view(output),
          output.format == ELIR_BGR8, scratch);
  }
}

// Where the squares of faces lie in the output. The others get their reasons.
std::vector<Similarity> PhotoRestorer::align(std::vector<Face>& faces, const Ellipse& ellipse,
                                             const elir_image& output, std::int64_t scale) const {
  const std::int64_t side = square().height;
  const Points points = template_units(detector_of(restorer_.bundle()).aligned, side);
  std::vector<Similarity> places;
  for (Face& face : faces) {
    if (face.reason != nullptr) continue;
    Points landmarks = face.landmarks;
    for (Point& point : landmarks) point = {scale * point.x, scale * point.y};
    face.reason =
        reason_not_alignable(points, landmarks, side, std::max(output.width, output.height));
    if (face.reason != nullptr) continue;
    const Similarity similarity = fit(points, landmarks);
    const auto width = static_cast<std::size_t>(output.width);
    const auto height = static_cast<std::size_t>(output.height);
    if (ellipse.bounds(similarity, width, height).empty()) {
      face.reason = "it lies outside the picture";
      continue;
    }
    face.restored = true;
    places.push_back(similarity);
  }
  return places;
}

}  // namespace elir::core
