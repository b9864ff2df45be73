// The user's cache of compiled models, shared with the Python runtime
// (elir_deploy/runtime/cache.py).
//
// A sealed file ends with the SHA-256 of the rest, which detects damage and truncation, but not
// malice.
//
// Compiled models may take $ELIR_CACHE_LIMIT bytes. Adding one removes the least recently used, by
// the same rules and locks as in Python.
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

// A path that cannot be created or written. Callers log it as a warning.
class CacheFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `base` or, without one, $ELIR_CACHE, or elir-deploy in $XDG_CACHE_HOME or ~/.cache. Does not
// create it. Throws a CacheFailure.
std::filesystem::path cache_folder(const std::optional<std::string>& base);

inline constexpr std::uint64_t kDefaultCacheLimit = 1000000000;

// Largest number of bytes of all compiled models; 0: no cache. Throws a CacheFailure.
std::uint64_t cache_limit();

// An open file or folder.
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

// A file mapped into memory. Writing to the memory does not change the file.
class MappedFile {
 public:
  // Null if it cannot be read or is empty.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
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

// A file read from the cache. It counts as used now, and is locked as long as it is mapped.
struct Sealed {
  std::shared_ptr<const MappedFile> file;  // null: missing, unreadable or damaged
  std::size_t size = 0;                    // without the seal
  bool damaged = false;
};
Sealed read_sealed(const std::filesystem::path& path);

// Writes a sealed file atomically; `write` writes its content. Throws a CacheFailure, also if the
// file exceeds the limit, or what `write` throws.
void write_sealed(const std::filesystem::path& path,
                  const std::function<void(std::ostream&)>& write);

// Removes compiled models other than `newest` until the rest is within the limit, and unfinished
// files of killed writers. Throws a CacheFailure.
void trim_cache(const std::filesystem::path& folder, const std::filesystem::path& newest);

}  // namespace elir::core
