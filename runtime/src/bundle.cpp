#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <system_error>

#include "error.hpp"
#include "messages.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

struct Close {
  void operator()(std::FILE* file) const { static_cast<void>(std::fclose(file)); }
};
using File = std::unique_ptr<std::FILE, Close>;

// `./a//b/` as `a/b`, the way Python's pathlib writes it.
fs::path tidied(const std::string& given) {
  fs::path made;
  for (const fs::path& part : fs::u8path(given)) {
    if (!part.empty() && part != ".") made /= part;
  }
  return made.empty() ? fs::path(".") : made;
}

std::string reason(int error) { return std::generic_category().message(error); }

Failure unreadable(const std::string& path, const std::string& why) {
  return bundle_error(message("file_unreadable", {{"path", path}, {"reason", why}}));
}

std::string read_file(const fs::path& folder, const fs::path& path) {
  std::error_code ignored;
  const fs::file_type type = fs::status(path, ignored).type();
  if (type == fs::file_type::not_found) {
    throw bundle_error(
        message("folder_without", {{"folder", folder.string()}, {"manifest", kManifestName}}));
  }
  // Anything but a file might keep a reader waiting; a folder, and what cannot be told, have errors
  // of their own.
  if (type != fs::file_type::regular && type != fs::file_type::directory &&
      type != fs::file_type::unknown && type != fs::file_type::none) {
    throw bundle_error(message("file_irregular", {{"path", path.string()}}));
  }
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) throw unreadable(path.string(), reason(errno));
  std::string data;
  char chunk[65536];
  while (data.size() <= kMaxManifestBytes) {
    const std::size_t count = std::fread(chunk, 1, sizeof chunk, file.get());
    if (count == 0) break;
    data.append(chunk, count);
  }
  if (std::ferror(file.get()) != 0) throw unreadable(path.string(), reason(errno));
  return data;
}

Manifest opened(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    if (fs::exists(folder, ignored)) {
      throw bundle_error(
          message("folder_is_a_file", {{"path", folder.string()}, {"manifest", kManifestName}}));
    }
    throw bundle_error(message("folder_missing", {{"path", folder.string()}}));
  }
  const fs::path path = folder / kManifestName;
  const std::string data = read_file(folder, path);
  try {
    if (data.size() > kMaxManifestBytes) {
      throw bundle_error(message("manifest_large", {{"limit", kMaxManifestBytes}}));
    }
    return read_manifest(data);
  } catch (const Failure& failure) {
    throw Failure(failure.status(),
                  message("manifest_in", {{"path", path.string()}, {"reason", failure.what()}}));
  }
}

std::string hashed(const fs::path& path, const std::string& shown) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) throw unreadable(shown, reason(errno));
  Sha256 hash;
  const auto chunk = std::make_unique<char[]>(std::size_t{1} << 20U);
  while (const std::size_t count = std::fread(chunk.get(), 1, std::size_t{1} << 20U, file.get())) {
    hash.update(chunk.get(), count);
  }
  if (std::ferror(file.get()) != 0) throw unreadable(shown, reason(errno));
  return hash.finish();
}

}  // namespace

Bundle::Bundle(const std::string& folder) : path_(tidied(folder)), manifest_(opened(path_)) {
  for (const auto& [file, hash] : manifest_.file_hashes) {
    const std::uintmax_t size = fs::file_size(located(file));
    for (const Stage& stage : manifest_.stages) {
      for (const Artifact& artifact : stage.artifacts) {
        if (artifact.file != file) continue;
        if (size == static_cast<std::uintmax_t>(artifact.bytes)) continue;
        throw bundle_error(message(
            "file_size",
            {{"path", (path_ / file).string()}, {"seen", size}, {"wanted", artifact.bytes}}));
      }
    }
  }
}

fs::path Bundle::checked_file(const std::string& file) const {
  const auto& hashes = manifest_.file_hashes;
  const auto listed = std::find_if(hashes.begin(), hashes.end(),
                                   [&](const auto& entry) { return entry.first == file; });
  if (listed == hashes.end()) {
    throw bundle_error(
        message("file_unknown", {{"bundle", path_.string()}, {"file", python_repr(file)}}));
  }
  fs::path path = located(file);
  const std::string shown = (path_ / file).string();
  const std::string seen = hashed(path, shown);
  if (seen != listed->second) {
    throw bundle_error(
        message("file_changed", {{"path", shown}, {"seen", seen}, {"wanted", listed->second}}));
  }
  return path;
}

fs::path Bundle::located(const std::string& file) const {
  const std::string shown = (path_ / file).string();
  std::error_code error;
  fs::path path = fs::canonical(path_ / file, error);
  if (error == std::errc::no_such_file_or_directory) {
    throw bundle_error(message("file_missing", {{"path", shown}}));
  }
  if (error) throw unreadable(shown, error.message());
  const fs::path folder = fs::canonical(path_, error);
  if (error) throw unreadable(shown, error.message());
  if (std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first != folder.end()) {
    throw bundle_error(message("file_is_a_link", {{"path", shown}}));
  }
  if (!fs::is_regular_file(path, error)) {
    throw bundle_error(message("file_irregular", {{"path", shown}}));
  }
  return path;
}

}  // namespace elir::core
