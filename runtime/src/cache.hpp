// What is kept in the user's cache folder, where and as the Python runtime keeps it
// (elir_deploy/runtime/cache.py): slow to make, harmless to lose, never trusted blindly.
//
// A sealed file ends with the SHA-256 of the rest, so that one that was damaged, or cut off by a
// crash, is found to be none. Seals detect damage, not malice.
//
// Compiled models together may have $ELIR_CACHE_LIMIT bytes; who adds one removes those that were
// not used for longest, by the same rules and locks as in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace elir::core {

// A place that cannot be made or written. Nobody's call fails for it.
class CacheFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `base`, or without one $ELIR_CACHE, or elir-deploy in $XDG_CACHE_HOME or ~/.cache; not made here.
// Throws a CacheFailure.
std::filesystem::path cache_folder(const std::optional<std::string>& base);

inline constexpr std::uint64_t kDefaultCacheLimit = 1000000000;

// The bytes that compiled models may have together; 0 keeps none. Throws a CacheFailure.
std::uint64_t cache_limit();

// A file or folder that is open as long as this lives.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  explicit operator bool() const { return file_ >= 0; }
  int get() const { return file_; }

 private:
  int file_;
};

// A file in memory. Writing there changes nothing but the memory.
class MappedFile {
 public:
  // None if it cannot be read or is empty.
  static std::shared_ptr<const MappedFile> of(const std::filesystem::path& path);
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  int descriptor() const { return file_.get(); }

 private:
  Descriptor file_;
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

inline constexpr std::size_t kSealBytes = 32;

// The file at `path` without its seal; `damaged` where there is something else. It counts as used
// now, and as in use as long as it is mapped.
struct Sealed {
  std::shared_ptr<const MappedFile> file;  // null: not there, unreadable or damaged
  std::size_t size = 0;                    // without the seal
  bool damaged = false;
};
Sealed read_sealed(const std::filesystem::path& path);

// Keeps what `write` puts into the stream, from its start; another process sees all of it or
// nothing. Throws a CacheFailure, also where the limit is too small, or what `write` throws.
void write_sealed(const std::filesystem::path& path,
                  const std::function<void(std::ostream&)>& write);

// Removes compiled models from a cache folder until the rest is within the limit, but for `newest`;
// and what killed writers left. Throws a CacheFailure.
void trim_cache(const std::filesystem::path& folder, const std::filesystem::path& newest);

}  // namespace elir::core
