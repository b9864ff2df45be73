#include "cache.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <system_error>

#include "sha256.hpp"
#include "text.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

std::string reason(int error) { return std::generic_category().message(error); }

CacheFailure no_folder(const fs::path& folder, const std::string& why) {
  return CacheFailure(text(folder.string(), " cannot be made: set XDG_CACHE_HOME (", why, ")"));
}

CacheFailure unwritable(const fs::path& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  return CacheFailure(text(path.string(), " cannot be written: ", reason(error == 0 ? EIO : error),
                           full ? ": free some space and run again" : ""));
}

std::optional<fs::path> home() {
  if (const char* named = secure_getenv("HOME")) return fs::path(*named == '\0' ? "/" : named);
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> strings(16384);
  getpwuid_r(getuid(), &entry, strings.data(), strings.size(), &found);
  if (found == nullptr) return std::nullopt;
  return fs::path(found->pw_dir);
}

fs::path user_folder() {
  // The XDG specification wants relative paths ignored.
  const char* const named = secure_getenv("XDG_CACHE_HOME");
  if (named != nullptr && *named == '/') return fs::path(named) / "elir-deploy";
  const auto own = home();
  if (!own) throw no_folder("~/.cache/elir-deploy", "the user has no home");
  return *own / ".cache" / "elir-deploy";
}

// A new file beside `path`, gone at the end unless it took that name.
class Part {
 public:
  explicit Part(const fs::path& path) : path_(path) {
    std::random_device random;
    name_ = path.parent_path() / text(".elir-", std::hex, random(), random(), ".part");
    // With the permissions of any new file.
    const int file = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) throw unwritable(path_, errno);
    ::close(file);
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
  bool taken_ = false;
};

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

fs::path cache_folder(const std::optional<std::string>& base,
                      const std::vector<std::string>& parts) {
  fs::path folder = base ? fs::u8path(*base) : user_folder();
  for (const std::string& part : parts) folder /= part;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw no_folder(folder, error.message());
  return folder;
}

std::shared_ptr<const MappedFile> MappedFile::of(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return nullptr;
  struct stat status{};
  void* data = MAP_FAILED;
  std::size_t size = 0;
  if (::fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    size = static_cast<std::size_t>(status.st_size);
    data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  }
  ::close(file);
  if (data == MAP_FAILED) return nullptr;
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<std::uint8_t*>(data), size));
}

MappedFile::~MappedFile() { ::munmap(data_, size_); }

Sealed read_sealed(const fs::path& path) {
  std::error_code ignored;
  auto file = MappedFile::of(path);
  if (!file) return {nullptr, 0, fs::exists(path, ignored)};
  if (file->size() < kSealBytes) return {nullptr, 0, true};
  const std::size_t size = file->size() - kSealBytes;
  Sha256 hash;
  hash.update(file->data(), size);
  const auto seal = hash.digest();
  if (std::memcmp(seal.data(), file->data() + size, kSealBytes) != 0) return {nullptr, 0, true};
  return {std::move(file), size, false};
}

void write_sealed(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  Part part(path);
  put(path, part.name(), std::ios::trunc, write);
  Sha256 hash;
  const auto content = MappedFile::of(part.name());
  std::error_code ignored;
  if (content) {
    hash.update(content->data(), content->size());
  } else if (fs::file_size(part.name(), ignored) != 0) {
    throw unwritable(path, ENOMEM);  // it cannot be mapped, so nobody could read it either
  }
  const auto seal = hash.digest();
  put(path, part.name(), std::ios::app, [&](std::ostream& file) {
    file.write(reinterpret_cast<const char*>(seal.data()), kSealBytes);
  });
  // Not forced to the disk, which takes seconds on a memory card: the seal tells what got there.
  part.take_name();
}

}  // namespace elir::core
