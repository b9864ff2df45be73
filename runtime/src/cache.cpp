#include "cache.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <regex>
#include <system_error>
#include <thread>
#include <tuple>

#include "sha256.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

CacheFailure unwritable(const fs::path& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  const std::string reason = std::generic_category().message(error == 0 ? EIO : error);
  return CacheFailure(text(path.string(), " cannot be written: ", reason,
                           full ? ": free some space and run again" : ""));
}

fs::path home_folder() {
  if (const char* home = secure_getenv("HOME")) return *home == '\0' ? "/" : home;
  passwd entry{};
  passwd* user = nullptr;
  std::vector<char> strings(16384);
  getpwuid_r(getuid(), &entry, strings.data(), strings.size(), &user);
  if (user == nullptr)
    throw CacheFailure("the user has no home folder: set ELIR_CACHE to a folder for the cache");
  return user->pw_dir;
}

// Tries to lock a file until it is closed. Returns false if that is not possible.
bool try_lock(int file, int kind) { return ::flock(file, kind | LOCK_NB) == 0; }

std::string temporary_name() {
  std::random_device random;
  std::string digits;
  while (digits.size() < 16) digits += "0123456789abcdef"[random() % 16];
  return ".elir-" + digits + ".part";
}

// A new file beside `path`, removed at the end unless it was renamed to `path`. It is locked, which
// distinguishes it from one that a killed process left.
class TemporaryFile {
 public:
  explicit TemporaryFile(const fs::path& path) : path_(path) {
    do {
      name_ = path.parent_path() / temporary_name();
      file_.emplace(name_, O_WRONLY | O_CREAT | O_EXCL);
      if (!*file_) throw unwritable(path_, errno);
      static_cast<void>(::flock(file_->get(), LOCK_EX));
    } while (::access(name_.c_str(), F_OK) != 0);  // another process removed it before the lock
  }
  ~TemporaryFile() {
    std::error_code ignored;
    if (!renamed_) fs::remove(name_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const fs::path& name() const { return name_; }

  void rename_to_path() {
    if (std::rename(name_.c_str(), path_.c_str()) != 0) throw unwritable(path_, errno);
    renamed_ = true;
  }

 private:
  fs::path path_;
  fs::path name_;
  std::optional<Descriptor> file_;
  bool renamed_ = false;
};

std::string megabytes(std::uint64_t bytes) {
  return text(with_one_digit(static_cast<double>(bytes) / 1e6), " MB");
}

// Calls `write` with the file `name`. Throws a CacheFailure about `path` if writing fails.
void write_file(const fs::path& path, const fs::path& name, std::ios::openmode mode,
                const std::function<void(std::ostream&)>& write) {
  errno = 0;
  std::ofstream file(name, std::ios::binary | mode);
  try {
    write(file);
  } catch (...) {
    if (!file) throw unwritable(path, errno);  // the cause
    throw;
  }
  file.close();
  if (!file) throw unwritable(path, errno);
}

}  // namespace

fs::path cache_folder(const std::optional<std::string>& base) {
  if (base) return fs::u8path(*base);
  const char* const variable = secure_getenv("ELIR_CACHE");
  if (variable != nullptr && *variable != '\0') {
    const std::string folder = variable;
    if (folder == "~") return home_folder();
    return folder.rfind("~/", 0) == 0 ? home_folder() / folder.substr(2) : fs::path(folder);
  }
  // By the XDG specification, relative paths are ignored.
  const char* const xdg = secure_getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg == '/') return fs::path(xdg) / "elir-deploy";
  return home_folder() / ".cache" / "elir-deploy";
}

std::uint64_t cache_limit() {
  const char* const variable = secure_getenv("ELIR_CACHE_LIMIT");
  if (variable == nullptr || *variable == '\0') return kDefaultCacheLimit;
  static const std::regex pattern("[0-9]{1,15}|[0-9]{1,6}[MG]");
  const std::string limit = std::string(variable).substr(0, 100);
  if (!std::regex_match(limit, pattern)) {
    throw CacheFailure(
        text("ELIR_CACHE_LIMIT is ", limit, ", expected a size such as 500M or 2G, or 0"));
  }
  const std::uint64_t unit = limit.back() == 'G' ? 1000000000 : limit.back() == 'M' ? 1000000 : 1;
  return std::stoull(limit) * unit;
}

// New files have the permissions of the umask.
Descriptor::Descriptor(const fs::path& path, int flags)
    : file_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}

Descriptor::~Descriptor() {
  if (file_ >= 0) ::close(file_);
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  auto file = std::make_shared<const MappedFile>(path);
  return file->data() == nullptr ? nullptr : file;
}

MappedFile::MappedFile(const fs::path& path) : file_(path, O_RDONLY | O_NONBLOCK) {
  struct stat status{};
  if (!file_ || ::fstat(file_.get(), &status) != 0 || !S_ISREG(status.st_mode)) return;
  size_ = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_.get(), 0);
  if (data != MAP_FAILED) data_ = static_cast<std::uint8_t*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Sealed read_sealed(const fs::path& path) {
  std::error_code ignored;
  auto file = MappedFile::open(path);
  if (!file) return {nullptr, 0, fs::exists(path, ignored)};
  try_lock(file->descriptor(), LOCK_SH);
  if (file->size() < kSealBytes) return {nullptr, 0, true};
  const std::size_t size = file->size() - kSealBytes;
  Sha256 hash;
  hash.update(file->data(), size);
  const auto seal = hash.digest();
  if (std::memcmp(seal.data(), file->data() + size, kSealBytes) != 0) return {nullptr, 0, true};
  static_cast<void>(::futimens(file->descriptor(), nullptr));  // fails on another user's file
  return {std::move(file), size, false};
}

void write_sealed(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) {
    throw CacheFailure(text(path.parent_path().string(), " cannot be created: set ELIR_CACHE (",
                            error.message(), ")"));
  }
  TemporaryFile temporary(path);
  write_file(path, temporary.name(), std::ios::trunc, write);
  const std::uint64_t size = fs::file_size(temporary.name()) + kSealBytes;
  const std::uint64_t limit = cache_limit();
  if (size > limit) {
    throw CacheFailure(
        text(path.string(), " has ", megabytes(size), ", ELIR_CACHE_LIMIT is ", megabytes(limit)));
  }
  Sha256 hash;
  if (const auto content = MappedFile::open(temporary.name())) {
    hash.update(content->data(), content->size());
  } else if (size > kSealBytes) {
    throw unwritable(path, ENOMEM);  // it cannot be mapped, so it could not be read either
  }
  const auto seal = hash.digest();
  write_file(path, temporary.name(), std::ios::app, [&](std::ostream& file) {
    file.write(reinterpret_cast<const char*>(seal.data()), kSealBytes);
  });
  // No fsync, which takes seconds on a memory card: the seal detects an incomplete file.
  temporary.rename_to_path();
}

namespace {

// Age after which an empty folder is removed: no writer has just created it.
constexpr std::int64_t kStaleSeconds = 60;
// Time to wait for another process that removes files.
constexpr std::chrono::milliseconds kLockTimeout(1000);

// A file in the cache.
struct Entry {
  std::int64_t used;  // time of the last use, in nanoseconds since 1970
  fs::path path;
  std::uint64_t bytes;
  bool unfinished;  // being written, or its writer was killed
};

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{1000000000} * time.tv_sec + time.tv_nsec;
}

bool is_stale(std::int64_t nanoseconds) {
  return std::time(nullptr) - nanoseconds / 1000000000 > kStaleSeconds;
}

// Whether a path in the cache folder, which may contain other files, is that of a compiled model or
// an unfinished one.
bool is_compiled_model(const std::string& path) {
  static const std::regex pattern(
      R"(openvino/[^/]+/[0-9a-f]{64}/([^/]+\.blob|\.elir-[0-9a-f]{16}\.part))"
      R"(|tensorrt-rtx/[^/]+/[0-9a-f]{64}/([^/]+\.cache|\.elir-[0-9a-f]{16}\.part))"
      R"(|tensorrt/[^/]+/(timing\.cache|\.elir-[0-9a-f]{16}\.part))"
      R"(|onnxruntime-tensorrt/[0-9a-f]{64}/[^/]+)");
  return std::regex_match(path, pattern);
}

bool is_unfinished(const fs::path& path) {
  static const std::regex part(R"(\.elir-[0-9a-f]{16}\.part)");
  return std::regex_match(path.filename().string(), part);
}

// All compiled models, the least recently used first; and all folders, the inner ones first.
struct Contents {
  std::vector<Entry> files;
  std::vector<fs::path> folders;
};

Contents list_cache(const fs::path& folder) {
  Contents contents;
  for (const char* kind : {"onnxruntime-tensorrt", "openvino", "tensorrt", "tensorrt-rtx"}) {
    std::error_code error;
    const auto options = fs::directory_options::skip_permission_denied;
    fs::recursive_directory_iterator at(folder / kind, options, error);
    if (error) continue;
    contents.folders.push_back(folder / kind);
    for (; at != fs::recursive_directory_iterator(); at.increment(error)) {
      struct stat status{};
      if (::lstat(at->path().c_str(), &status) != 0) continue;  // removed meanwhile
      if (S_ISDIR(status.st_mode)) contents.folders.push_back(at->path());
      if (at.depth() >= 2) at.disable_recursion_pending();
      const std::string name = at->path().lexically_relative(folder).generic_string();
      if (S_ISREG(status.st_mode) && is_compiled_model(name)) {
        contents.files.push_back({nanoseconds(status.st_mtim), at->path(),
                                  static_cast<std::uint64_t>(status.st_size),
                                  is_unfinished(at->path())});
      }
    }
  }
  std::reverse(contents.folders.begin(), contents.folders.end());
  std::sort(contents.files.begin(), contents.files.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.used, a.path.native()) < std::tie(b.used, b.path.native());
  });
  return contents;
}

// Removes a file unless it is in use, being written, or another user's. Returns whether it is gone.
bool remove_unused(const Entry& entry) {
  const Descriptor folder(entry.path.parent_path(), O_RDONLY | O_DIRECTORY);
  if (!folder) return errno == ENOENT;
  // For exclusive locks, NFS requires write access.
  const Descriptor file(entry.path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return errno == ENOENT;
  if (!try_lock(folder.get(), LOCK_EX) || !try_lock(file.get(), LOCK_EX)) return false;
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || nanoseconds(status.st_mtim) != entry.used) return false;
  return ::unlink(entry.path.c_str()) == 0 || errno == ENOENT;
}

// Locks the cache folder: two processes that remove files at once would remove too many.
class FolderLock {
 public:
  explicit FolderLock(const fs::path& folder) : folder_(folder, O_RDONLY | O_DIRECTORY) {
    const auto until = std::chrono::steady_clock::now() + kLockTimeout;
    while (folder_ && !try_lock(folder_.get(), LOCK_EX) &&
           std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  // After closing alone, a child forked meanwhile would still own the lock.
  ~FolderLock() {
    if (folder_) ::flock(folder_.get(), LOCK_UN);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  Descriptor folder_;
};

}  // namespace

void trim_cache(const fs::path& folder, const fs::path& newest) {
  const std::uint64_t limit = cache_limit();
  const FolderLock lock(folder);
  const Contents contents = list_cache(folder);
  std::uint64_t left = 0;
  for (const Entry& entry : contents.files) left += entry.unfinished ? 0 : entry.bytes;
  for (const Entry& entry : contents.files) {
    if (entry.unfinished) {
      remove_unused(entry);
    } else if (left > limit && entry.path != newest && remove_unused(entry)) {
      left -= entry.bytes;
    }
  }
  for (const fs::path& each : contents.folders) {  // except those just created by a writer
    struct stat status{};
    if (::stat(each.c_str(), &status) == 0 && is_stale(nanoseconds(status.st_mtim))) {
      ::rmdir(each.c_str());
    }
  }
}

}  // namespace elir::core
