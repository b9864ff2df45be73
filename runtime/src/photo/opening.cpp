#include "opening.hpp"

#include "../detector_graph.hpp"
#include "../error.hpp"
#include "../text.hpp"
#include "detection.hpp"

namespace elir::core {
namespace {

// Missing libraries and a lack of memory often show only in a run. Of an engine's sizes the
// smallest is run alone: each keeps its memory from then on, and pictures of one orientation need
// one of them.
std::unique_ptr<DetectorNetwork> open_and_run(const Backend& backend, const Bundle& bundle,
                                              const Setup& setup, std::int64_t long_side) {
  auto network = backend.open_detector(bundle, setup);
  const Detector& detector = detector_of(bundle);
  const PictureSize largest = input_size(detector, long_side, long_side);
  if (!network->size_for(largest)) {
    std::vector<std::string> sizes;
    for (const auto& [height, width] : network->sizes()) sizes.push_back(text(width, "x", height));
    throw unavailable_error("its engine takes pictures of ", joined(sizes, ", "),
                            ", a long side of ", long_side, " needs up to ", largest.width, "x",
                            largest.height);
  }
  constexpr std::int64_t kFirstSide = 64;
  const PictureSize first = input_size(detector, kFirstSide, kFirstSide);
  const auto size = network->size_for(first.height < largest.height ? first : largest);
  std::vector<float> picture(static_cast<std::size_t>(3 * size->height * size->width));
  network->run(picture.data(), size->height, size->width);
  return network;
}

}  // namespace

std::unique_ptr<DetectorNetwork> open_detector(const std::string& first, const Bundle& bundle,
                                               const Setup& setup, std::int64_t long_side,
                                               const std::vector<const Backend*>& among) {
  std::vector<std::string> reasons;
  for (const Backend* backend : detector_backends(first, detector_of(bundle), among)) {
    const std::string& name = backend->name;
    try {
      auto network = open_and_run(*backend, bundle, setup, long_side);
      if (!reasons.empty()) {
        setup.log.warn(text("the face detector runs on ", name, ": ", joined(reasons, "; ")));
      }
      return network;
    } catch (const Failure& failure) {
      // The others would run the same file.
      if (failure.status() == ELIR_ERROR_BUNDLE && backend->kind == "onnx") throw;
      reasons.push_back(text(name, ": ", failure.what()));
    } catch (const std::bad_alloc&) {
      reasons.push_back(text(name, ": out of memory"));
    } catch (const std::exception& error) {  // a library may throw anything
      reasons.push_back(text(name, ": ", one_line(error.what())));
    }
  }
  throw unavailable_error("no backend can run the face detector: ", joined(reasons, "; "));
}

}  // namespace elir::core
