// Restores whole photographs: faces are found, restored in their squares and put back. See
// elir_deploy/photo/restorer.py and restoring.py.
#pragma once

#include <elir/elir.h>

#include <memory>
#include <mutex>
#include <vector>

#include "../restorer.hpp"
#include "detection.hpp"
#include "faces.hpp"
#include "paste.hpp"

namespace elir::core {

class PhotoRestorer {
 public:
  // `restorer` restores aligned faces and must outlive this. `long_side` is the longer side in
  // pixels that pictures are shrunk to before faces are searched; 0: the bundle's. Throws a usage
  // error if the bundle's detector does not take it.
  PhotoRestorer(Restorer& restorer, const Setup& setup, std::int64_t long_side);

  // Throws a bundle error (no detector, or outputs that are invalid), or an unavailable error.
  std::vector<Face> detect(const elir_image& image);

  // Throws unless elir_restore_photo takes these arguments.
  void check(const elir_photo_params& params, const elir_image& input,
             const elir_image& output) const;

  // Restores a photograph whose arguments were checked. Returns all faces.
  std::vector<Face> restore(const elir_photo_params& params, const elir_image& input,
                            const elir_image& output);

 private:
  std::vector<Face> find(const Photograph& picture);
  std::vector<Face> restore_fully(const elir_photo_params& params, const elir_image& input,
                                  const elir_image& output, std::int64_t scale);
  const Shape& square() const;
  const Comparison& comparison();
  void restore_aligned(const elir_image& input, const elir_image& output);
  void restore_faces(std::vector<Face>& faces, const elir_image& input, const elir_image& output,
                     std::int64_t scale);
  void restore_group(const Similarity* places, std::size_t count, const Photograph& picture,
                     const elir_image& output, std::int64_t scale);
  std::vector<Similarity> align(std::vector<Face>& faces, const Ellipse& ellipse,
                                const elir_image& output, std::int64_t scale) const;

  Restorer& restorer_;
  const Setup setup_;
  const std::int64_t long_side_;
  std::mutex mutex_;  // of the network, which is opened with the first search
  std::unique_ptr<DetectorNetwork> network_;
  std::once_flag compared_;
  std::unique_ptr<Comparison> comparison_;  // made with the first face
};

}  // namespace elir::core
