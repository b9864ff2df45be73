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
  if (const char* named = secure_getenv("HOME")) return *named == '\0' ? "/" : named;
  passwd entry{};
  passwd* user = nullptr;
  std::vector<char> strings(16384);
  getpwuid_r(getuid(), &entry, strings.data(), strings.size(), &user);
  if (user == nullptr) throw CacheFailure("no home folder for the cache: set ELIR_CACHE");
  return user->pw_dir;
}

// Tries to lock a file until it is closed. Where locks are not to be had, nothing is locked.
bool lock(int file, int kind) { return ::flock(file, kind | LOCK_NB) == 0; }

std::string part_name() {
  std::random_device random;
  std::string digits;
  while (digits.size() < 16) digits += "0123456789abcdef"[random() % 16];
  return ".elir-" + digits + ".part";
}

// A new file beside `path`, gone at the end unless it took that name. It is locked, so that others
// tell it from what a killed process left.
class Part {
 public:
  explicit Part(const fs::path& path) : path_(path) {
    do {
      name_ = path.parent_path() / part_name();
      file_.emplace(name_, O_WRONLY | O_CREAT | O_EXCL);
      if (!*file_) throw unwritable(path_, errno);
      static_cast<void>(::flock(file_->get(), LOCK_EX));
    } while (::access(name_.c_str(), F_OK) != 0);  // taken for a killed process's in between
  }
  ~Part() {
    std::error_code ignored;
    if (!taken_) fs::remove(name_, ignored);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  const fs::path& name() const { return name_; }

  void take_name() {
    if (std::rename(name_.c_str(), path_.c_str()) != 0) throw unwritable(path_, errno);
    taken_ = true;
  }

 private:
  fs::path path_;
  fs::path name_;
  std::optional<Descriptor> file_;
  bool taken_ = false;
};

std::string megabytes(std::uint64_t bytes) {
  return text(with_one_digit(static_cast<double>(bytes) / 1e6), " MB");
}

// Calls `write` with the file, and tells what the file system made of it.
void put(const fs::path& shown, const fs::path& name, std::ios::openmode how,
         const std::function<void(std::ostream&)>& write) {
  errno = 0;
  std::ofstream file(name, std::ios::binary | how);
  try {
    write(file);
  } catch (...) {
    if (!file) throw unwritable(shown, errno);  // which is why
    throw;
  }
  file.close();
  if (!file) throw unwritable(shown, errno);
}

}  // namespace

fs::path cache_folder(const std::optional<std::string>& base) {
  if (base) return fs::u8path(*base);
  const char* const own = secure_getenv("ELIR_CACHE");
  if (own != nullptr && *own != '\0') {
    const std::string named = own;
    if (named == "~") return home_folder();
    return named.rfind("~/", 0) == 0 ? home_folder() / named.substr(2) : fs::path(named);
  }
  // The XDG specification wants relative paths ignored.
  const char* const general = secure_getenv("XDG_CACHE_HOME");
  if (general != nullptr && *general == '/') return fs::path(general) / "elir-deploy";
  return home_folder() / ".cache" / "elir-deploy";
}

std::uint64_t cache_limit() {
  const char* const given = secure_getenv("ELIR_CACHE_LIMIT");
  if (given == nullptr || *given == '\0') return kDefaultCacheLimit;
  static const std::regex size("[0-9]{1,15}|[0-9]{1,6}[MG]");
  const std::string written = std::string(given).substr(0, 100);
  if (!std::regex_match(written, size)) {
    throw CacheFailure(
        text("ELIR_CACHE_LIMIT is ", written, ", wanted a size such as 500M or 2G, or 0"));
  }
  const std::uint64_t unit = written.back() == 'G'   ? 1000000000
                             : written.back() == 'M' ? 1000000
                                                     : 1;
  return std::stoull(written) * unit;
}

// What it makes has the permissions of any new file.
Descriptor::Descriptor(const fs::path& path, int flags)
    : file_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}

Descriptor::~Descriptor() {
  if (file_ >= 0) ::close(file_);
}

std::shared_ptr<const MappedFile> MappedFile::of(const fs::path& path) {
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
  auto file = MappedFile::of(path);
  if (!file) return {nullptr, 0, fs::exists(path, ignored)};
  lock(file->descriptor(), LOCK_SH);
  if (file->size() < kSealBytes) return {nullptr, 0, true};
  const std::size_t size = file->size() - kSealBytes;
  Sha256 hash;
  hash.update(file->data(), size);
  const auto seal = hash.digest();
  if (std::memcmp(seal.data(), file->data() + size, kSealBytes) != 0) return {nullptr, 0, true};
  static_cast<void>(::futimens(file->descriptor(), nullptr));  // it may be another user's
  return {std::move(file), size, false};
}

void write_sealed(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) {
    throw CacheFailure(text(path.parent_path().string(), " cannot be made: set ELIR_CACHE (",
                            error.message(), ")"));
  }
  Part part(path);
  put(path, part.name(), std::ios::trunc, write);
  const std::uint64_t size = fs::file_size(part.name()) + kSealBytes;
  const std::uint64_t limit = cache_limit();
  if (size > limit) {
    throw CacheFailure(text(path.string(), " has ", megabytes(size), ", more than the ",
                            megabytes(limit), " that ELIR_CACHE_LIMIT allows"));
  }
  Sha256 hash;
  if (const auto content = MappedFile::of(part.name())) {
    hash.update(content->data(), content->size());
  } else if (size > kSealBytes) {
    throw unwritable(path, ENOMEM);  // it cannot be mapped, so nobody could read it either
  }
  const auto seal = hash.digest();
  put(path, part.name(), std::ios::app, [&](std::ostream& file) {
    file.write(reinterpret_cast<const char*>(seal.data()), kSealBytes);
  });
  // Not forced to the disk, which takes seconds on a memory card: the seal tells what got there.
  part.take_name();
}

namespace {

// After which nobody is about to write into an empty folder any more.
constexpr std::int64_t kStaleSeconds = 60;
// To wait for another process that removes files.
constexpr std::chrono::milliseconds kPatience(1000);

// A file in the cache.
struct Kept {
  std::int64_t used;  // when, in nanoseconds since 1970
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

// What is removed has such a path in the cache folder, which may be shared with other programs.
bool is_ours(const std::string& path) {
  static const std::regex ours(
      R"(openvino/[^/]+/[0-9a-f]{64}/([^/]+\.blob|\.elir-[0-9a-f]{16}\.part))"
      R"(|tensorrt-rtx/[^/]+/[0-9a-f]{64}/([^/]+\.cache|\.elir-[0-9a-f]{16}\.part))"
      R"(|tensorrt/[^/]+/(timing\.cache|\.elir-[0-9a-f]{16}\.part))"
      R"(|onnxruntime-tensorrt/[0-9a-f]{64}/[^/]+)");
  return std::regex_match(path, ours);
}

bool is_unfinished(const fs::path& path) {
  static const std::regex part(R"(\.elir-[0-9a-f]{16}\.part)");
  return std::regex_match(path.filename().string(), part);
}

// Every compiled model, the one not used for longest first; and all folders, the inner ones first.
struct Contents {
  std::vector<Kept> files;
  std::vector<fs::path> folders;
};

Contents contents_of(const fs::path& folder) {
  Contents found;
  for (const char* kind : {"onnxruntime-tensorrt", "openvino", "tensorrt", "tensorrt-rtx"}) {
    std::error_code error;
    const auto options = fs::directory_options::skip_permission_denied;
    fs::recursive_directory_iterator at(folder / kind, options, error);
    if (error) continue;
    found.folders.push_back(folder / kind);
    for (; at != fs::recursive_directory_iterator(); at.increment(error)) {
      struct stat status{};
      if (::lstat(at->path().c_str(), &status) != 0) continue;  // gone meanwhile
      if (S_ISDIR(status.st_mode)) found.folders.push_back(at->path());
      if (at.depth() >= 2) at.disable_recursion_pending();
      const std::string name = at->path().lexically_relative(folder).generic_string();
      if (S_ISREG(status.st_mode) && is_ours(name)) {
        found.files.push_back({nanoseconds(status.st_mtim), at->path(),
                               static_cast<std::uint64_t>(status.st_size),
                               is_unfinished(at->path())});
      }
    }
  }
  std::reverse(found.folders.begin(), found.folders.end());
  std::sort(found.files.begin(), found.files.end(), [](const Kept& a, const Kept& b) {
    return std::tie(a.used, a.path.native()) < std::tie(b.used, b.path.native());
  });
  return found;
}

// Whether the file is gone: not where somebody uses or writes it, or it is another user's.
bool remove_unused(const Kept& kept) {
  const Descriptor folder(kept.path.parent_path(), O_RDONLY | O_DIRECTORY);
  if (!folder) return errno == ENOENT;
  // NFS has exclusive locks for writers only.
  const Descriptor file(kept.path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return errno == ENOENT;
  if (!lock(folder.get(), LOCK_EX) || !lock(file.get(), LOCK_EX)) return false;
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || nanoseconds(status.st_mtim) != kept.used) return false;
  return ::unlink(kept.path.c_str()) == 0 || errno == ENOENT;
}

// Two processes that remove at once would remove more than they must.
class Alone {
 public:
  explicit Alone(const fs::path& folder) : folder_(folder, O_RDONLY | O_DIRECTORY) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (folder_ && !lock(folder_.get(), LOCK_EX) && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  // Closing would leave the lock to a child that was forked meanwhile.
  ~Alone() {
    if (folder_) ::flock(folder_.get(), LOCK_UN);
  }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  Descriptor folder_;
};

}  // namespace

void trim_cache(const fs::path& folder, const fs::path& newest) {
  const std::uint64_t limit = cache_limit();
  const Alone alone(folder);
  const Contents found = contents_of(folder);
  std::uint64_t left = 0;
  for (const Kept& kept : found.files) left += kept.unfinished ? 0 : kept.bytes;
  for (const Kept& kept : found.files) {
    if (kept.unfinished) {
      remove_unused(kept);
    } else if (left > limit && kept.path != newest && remove_unused(kept)) {
      left -= kept.bytes;
    }
  }
  for (const fs::path& each : found.folders) {  // not those just made to write into
    struct stat status{};
    if (::stat(each.c_str(), &status) == 0 && is_stale(nanoseconds(status.st_mtim))) {
      ::rmdir(each.c_str());
    }
  }
}

}  // namespace elir::core
