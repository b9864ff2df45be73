#include "frame_restorer.hpp"

namespace elir::gstreamer {
namespace {

std::optional<Failure> failure(elir_status status) {
  if (status == ELIR_OK) return std::nullopt;
  return Failure{status, elir_last_error()};
}

const char* or_null(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

}  // namespace

std::optional<Failure> FrameRestorer::open(const Settings& settings, elir_log_callback log,
                                           void* user) {
  close();
  if (settings.bundle.empty()) {
    return Failure{ELIR_ERROR_USAGE,
                   "the property bundle is not set: set it to the folder that elir-export wrote"};
  }
  elir_params params = elir_default_params();
  params.backend = or_null(settings.backend);
  params.precision = or_null(settings.precision);
  params.device = settings.device;
  params.device_name = or_null(settings.device_name);
  params.strength = settings.strength;
  params.sigma_s = settings.sigma_s;
  params.seed = settings.seed;
  params.log = log;
  params.log_user = user;
  if (auto failed = failure(elir_create(settings.bundle.c_str(), &params, &restorer_))) {
    return failed;
  }
  elir_description description{};
  description.struct_size = sizeof description;
  auto failed = failure(elir_describe(restorer_, &description));
  if (!failed) failed = choose_faces(settings, description);
  if (failed) {
    close();
    return failed;
  }
  upscale_ = description.upscale;
  if (description.random != 0 && log != nullptr) {
    const std::string message = settings.bundle +
                                " has random weights, which are for measuring speed: its results "
                                "are meaningless";
    log(user, ELIR_LOG_WARNING, message.c_str());
  }
  return std::nullopt;
}

void FrameRestorer::close() {
  elir_destroy(restorer_);
  restorer_ = nullptr;
}

std::optional<Failure> FrameRestorer::restore(const elir_image& input, const elir_image& output) {
  if (!faces_) return failure(elir_restore(restorer_, &input, &output));
  const elir_photo_params params = {sizeof params, *faces_, nullptr, 0, nullptr};
  return failure(elir_restore_photo(restorer_, &params, &input, &output, nullptr, 0, nullptr));
}

std::optional<Failure> FrameRestorer::choose_faces(const Settings& settings,
                                                   const elir_description& description) {
  faces_.reset();
  const bool aligned = description.aligned_faces != 0;
  const bool detector = description.face_detector != 0;
  if (settings.faces == kFacesDefault) {
    if (aligned && detector) faces_ = ELIR_FACES_AUTO;
    return std::nullopt;
  }
  if (!aligned) {
    return Failure{ELIR_ERROR_USAGE,
                   "the property faces is for bundles of faces, such as bfr, and " +
                       settings.bundle + " is of " + description.task +
                       ", which restores the whole frame: leave it out"};
  }
  if (settings.faces == ELIR_FACES_ALIGNED) return std::nullopt;
  if (!detector) {
    return Failure{ELIR_ERROR_BUNDLE,
                   settings.bundle +
                       " has no face detector: export it again with --detector centerface, or set "
                       "faces to aligned for frames that show one aligned face"};
  }
  faces_ = static_cast<elir_faces>(settings.faces);
  return std::nullopt;
}

}  // namespace elir::gstreamer
