#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "error.hpp"
#include "onnx_check.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

struct Close {
  void operator()(std::FILE* file) const { static_cast<void>(std::fclose(file)); }
};
using OpenFile = std::unique_ptr<std::FILE, Close>;

Failure unreadable(const std::string& path, const std::string& why) {
  return bundle_error(path, " cannot be read: ", why);
}

// Passes the content to `use` in pieces until it returns false.
template <typename Use>
void read_pieces(const fs::path& path, const std::string& shown, const Use& use) {
  const auto failed = [&] { return unreadable(shown, std::generic_category().message(errno)); };
  const OpenFile file(std::fopen(path.c_str(), "rb"));
  if (!file) throw failed();
  constexpr std::size_t kPiece = std::size_t{1} << 20U;
  const auto piece = std::make_unique<char[]>(kPiece);
  while (const std::size_t count = std::fread(piece.get(), 1, kPiece, file.get())) {
    if (!use(piece.get(), count)) return;
  }
  if (std::ferror(file.get()) != 0) throw failed();
}

Manifest load_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) {
    throw bundle_error(folder.string(), " is not the folder of a bundle: there is no ",
                       path.string());
  }
  if (error) throw unreadable(path.string(), error.message());
  if (type != fs::file_type::regular) throw bundle_error(path.string(), " is not a regular file");
  std::string data;
  read_pieces(path, path.string(), [&](const char* piece, std::size_t count) {
    data.append(piece, count);
    return data.size() <= kMaxManifestBytes;
  });
  if (data.size() > kMaxManifestBytes) {
    throw bundle_error(path.string(), " has more than ", kMaxManifestBytes, " bytes");
  }
  try {
    return read_manifest(data);
  } catch (const Failure& failure) {
    throw Failure(failure.status(), text(path.string(), ": ", failure.what()));
  }
}

}  // namespace

Bundle::Bundle(const std::string& folder)
    : path_(fs::u8path(folder)), manifest_(load_manifest(path_)) {
  for (const File& each : manifest_.files) {
    const std::uintmax_t size = fs::file_size(locate(each.file));
    if (size == static_cast<std::uintmax_t>(each.bytes)) continue;
    throw bundle_error((path_ / each.file).string(), " has ", size, " bytes, expected ", each.bytes,
                       ": the file is truncated or replaced, copy the bundle again");
  }
}

fs::path Bundle::checked_file(const std::string& file) const {
  const auto& files = manifest_.files;
  const auto listed = std::find_if(files.begin(), files.end(),
                                   [&](const File& entry) { return entry.file == file; });
  if (listed == files.end()) {
    throw bundle_error(path_.string(), ": the manifest lists no file ", file);
  }
  fs::path path = locate(file);
  const std::string shown = (path_ / file).string();
  Sha256 hash;
  read_pieces(path, shown, [&](const char* piece, std::size_t count) {
    hash.update(piece, count);
    return true;
  });
  const std::string sha256 = hash.finish();
  if (sha256 != listed->sha256) {
    throw bundle_error(shown, " is damaged: its SHA-256 is ", sha256, ", expected ", listed->sha256,
                       ": copy the bundle again");
  }
  const auto is_graph = [&](const Artifact& artifact) {
    return artifact.file == file && artifact.kind == "onnx";
  };
  for (const Stage& stage : manifest_.stages) {
    if (!std::any_of(stage.artifacts.begin(), stage.artifacts.end(), is_graph)) continue;
    check_onnx_file(path, stage.ends(manifest_.graph_shape()));
  }
  const auto& detector = manifest_.detector;
  if (detector && std::any_of(detector->artifacts.begin(), detector->artifacts.end(), is_graph)) {
    check_onnx_file(path, {});
  }
  return path;
}

fs::path Bundle::locate(const std::string& file) const {
  const std::string shown = (path_ / file).string();
  std::error_code error;
  fs::path path = fs::canonical(path_ / file, error);
  if (error == std::errc::no_such_file_or_directory) {
    throw bundle_error(shown, " is missing: the bundle is incomplete, copy it again");
  }
  if (error) throw unreadable(shown, error.message());
  const fs::path folder = fs::canonical(path_, error);
  if (error) throw unreadable(shown, error.message());
  if (std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first != folder.end()) {
    throw bundle_error(shown,
                       " is a link to a file outside the bundle: copy the bundle with its files");
  }
  if (!fs::is_regular_file(path, error)) {
    throw bundle_error(shown, " is not a regular file");
  }
  return path;
}

}  // namespace elir::core
