// Sealed files, their damage, and the limit of the cache.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>

#include "cache.hpp"
#include "support.hpp"

namespace elir::core {
namespace {

namespace fs = std::filesystem;

void store(const fs::path& path, const std::string& content) {
  write_sealed(path, [&](std::ostream& file) { file << content; });
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const CacheFailure& failure) {
    return failure.what();
  }
  return "no failure";
}

class CacheTest : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  test::Folder folder_;
};

TEST_F(CacheTest, WriteAndRead) {
  for (const std::string& content : {std::string(), std::string("x"), std::string(100000, 'y')}) {
    store(path("file.blob"), std::string(1000, 'o'));  // something older
    store(path("file.blob"), content);
    const Sealed sealed = read_sealed(path("file.blob"));
    ASSERT_TRUE(sealed.file);
    EXPECT_FALSE(sealed.damaged);
    EXPECT_EQ(std::string(sealed.file->data(), sealed.file->data() + sealed.size), content);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1);
  }
}

TEST_F(CacheTest, SameFormatAsPython) {
  store(path("file.blob"), "content");
  // hashlib.sha256(b"content").digest()
  const std::string seal =
      "\xed\x70\x02\xb4\x39\xe9\xac\x84\x5f\x22\x35\x7d\x82\x2b\xac\x14"
      "\x44\x73\x0f\xbd\xb6\x01\x6d\x3e\xc9\x43\x22\x97\xb9\xec\x9f\x73";
  EXPECT_EQ(bytes_of(path("file.blob")), "content" + seal);
}

TEST_F(CacheTest, DetectsDamage) {
  store(path("file.blob"), "some content of it");
  const std::string whole = bytes_of(path("file.blob"));
  std::vector<std::string> damaged = {
      whole.substr(0, 20), whole.substr(0, whole.size() - 1), whole + '\0', whole.substr(1),
      whole.substr(0, 32), std::string(whole.size(), '\0'),   std::string()};
  for (std::size_t i = 0; i < whole.size(); ++i) {
    damaged.push_back(whole);
    damaged.back()[i] = static_cast<char>(damaged.back()[i] ^ 16);
  }
  for (const std::string& content : damaged) {
    test::write_file(path("file.blob"), content);
    const Sealed sealed = read_sealed(path("file.blob"));
    EXPECT_FALSE(sealed.file);
    EXPECT_TRUE(sealed.damaged);
  }
}

TEST_F(CacheTest, NotAFile) {
  EXPECT_FALSE(read_sealed(path("none")).damaged);
  fs::create_directory(path("file.blob"));
  EXPECT_TRUE(read_sealed(path("file.blob")).damaged);
  EXPECT_EQ(error_of([&] { store(path("file.blob"), "x"); }),
            path("file.blob").string() + " cannot be written: Is a directory");
  EXPECT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(read_sealed(path("pipe")).damaged) << "without waiting";
}

TEST_F(CacheTest, CannotBeWritten) {
  store(path("new") / "file.blob", "x");
  EXPECT_TRUE(read_sealed(path("new") / "file.blob").file);
  test::write_file(path("file"), "");
  EXPECT_EQ(error_of([&] { store(path("file") / "a" / "file.blob", "x"); }),
            (path("file") / "a").string() + " cannot be created: set ELIR_CACHE (Not a directory)");
}

TEST_F(CacheTest, FailedWritersLeaveNoFile) {
  EXPECT_THROW(
      write_sealed(path("file.blob"), [](std::ostream&) { throw std::runtime_error("no more"); }),
      std::runtime_error);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

// Whether the system keeps to RLIMIT_AS.
bool limits_memory() {
  rlimit before{};
  rlimit now{rlim_t{1} << 40U, RLIM_INFINITY};
  getrlimit(RLIMIT_AS, &before);
  now.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_AS, &now);
  rlimit after{};
  getrlimit(RLIMIT_AS, &after);
  setrlimit(RLIMIT_AS, &before);
  return after.rlim_cur == now.rlim_cur;
}

// Otherwise its seal would be that of no content.
TEST_F(CacheTest, FilesThatCannotBeMappedAreNotWritten) {
  setenv("ELIR_CACHE_LIMIT", "2G", 1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  if (!limits_memory()) GTEST_SKIP() << "setrlimit has no effect here, as under QEMU";
  const std::string sealed = error_of([&] {
    write_sealed(path("file.blob"), [](std::ostream& file) {
      std::size_t pages = 0;
      std::ifstream("/proc/self/statm") >> pages;
      const std::size_t used = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
      const rlimit now{used + (rlim_t{256} << 20U), RLIM_INFINITY};
      setrlimit(RLIMIT_AS, &now);
      file.seekp(std::streamoff{1} << 30U);  // a hole
      file << "x";
    });
  });
  setrlimit(RLIMIT_AS, &before);
  unsetenv("ELIR_CACHE_LIMIT");
  EXPECT_EQ(sealed, path("file.blob").string() + " cannot be written: Cannot allocate memory");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(CacheTest, MappedContentOutlivesTheFile) {
  store(path("file.blob"), "content");
  const Sealed sealed = read_sealed(path("file.blob"));
  sealed.file->data()[0] = 'C';
  EXPECT_EQ(bytes_of(path("file.blob")).substr(0, 7), "content");
  store(path("file.blob"), "another");
  fs::remove(path("file.blob"));
  EXPECT_EQ(std::string(sealed.file->data(), sealed.file->data() + sealed.size), "Content");
}

TEST_F(CacheTest, Folder) {
  unsetenv("ELIR_CACHE");
  EXPECT_EQ(cache_folder("named"), "named");
  setenv("HOME", path("home").c_str(), 1);
  setenv("XDG_CACHE_HOME", path("x").c_str(), 1);
  EXPECT_EQ(cache_folder({}), path("x") / "elir-deploy");
  for (const auto& [value, expected] : {std::pair<std::string, fs::path>("/a/b", "/a/b"),
                                        {"a", "a"},
                                        {"~", path("home")},
                                        {"~/a", path("home") / "a"},
                                        {"~a", "~a"},
                                        {"", path("x") / "elir-deploy"}}) {
    setenv("ELIR_CACHE", value.c_str(), 1);
    EXPECT_EQ(cache_folder({}), expected);
    EXPECT_EQ(cache_folder("named"), "named");
  }
  unsetenv("ELIR_CACHE");
  for (const char* ignored : {"", "relative"}) {
    setenv("XDG_CACHE_HOME", ignored, 1);
    EXPECT_EQ(cache_folder({}), path("home") / ".cache" / "elir-deploy");
  }
}

TEST_F(CacheTest, Limit) {
  unsetenv("ELIR_CACHE_LIMIT");
  EXPECT_EQ(cache_limit(), 1000000000U);
  for (const auto& [value, expected] : {std::pair<const char*, std::uint64_t>("", 1000000000),
                                        {"0", 0},
                                        {"1", 1},
                                        {"500M", 500000000},
                                        {"2G", 2000000000},
                                        {"999999G", 999999000000000},
                                        {"999999999999999", 999999999999999}}) {
    setenv("ELIR_CACHE_LIMIT", value, 1);
    EXPECT_EQ(cache_limit(), expected);
  }
  for (const std::string wrong : {"-1", "1 G", "G", "1g", "1.5G", "1000000G", "many"}) {
    setenv("ELIR_CACHE_LIMIT", wrong.c_str(), 1);
    EXPECT_EQ(error_of([] { cache_limit(); }),
              "ELIR_CACHE_LIMIT is " + wrong + ", expected a size such as 500M or 2G, or 0");
  }
  unsetenv("ELIR_CACHE_LIMIT");
}

// Compiled models of 132 bytes, the least recently used first.
class Trimming : public CacheTest {
 protected:
  void SetUp() override {
    const std::string sha256(64, 'a');
    for (const std::string& name :
         {"openvino/2026.1/" + sha256 + "/f32.1.blob", "tensorrt-rtx/1.7/" + sha256 + "/86.2.cache",
          std::string("tensorrt/10.3/timing.cache"),
          "onnxruntime-tensorrt/" + sha256 + "/x.engine"}) {
      files_.push_back(path(name));
      store(files_.back(), std::string(100, 'x'));
      set_last_use(files_.back(), 10 - static_cast<int>(files_.size()));
    }
  }
  void TearDown() override { unsetenv("ELIR_CACHE_LIMIT"); }

  static void set_last_use(const fs::path& file, int days_ago) {
    timespec then{std::time(nullptr) - 86400 * days_ago, 0};
    const timespec times[] = {then, then};
    ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  }
  void trim(const std::string& limit, const fs::path& newest = {}) {
    setenv("ELIR_CACHE_LIMIT", limit.c_str(), 1);
    trim_cache(folder_.path(), newest);
  }
  std::string remaining() const {
    std::string marks;
    for (const fs::path& file : files_) marks += fs::exists(file) ? '+' : '-';
    return marks;
  }
  std::vector<fs::path> files_;
};

TEST_F(Trimming, RemovesTheLeastRecentlyUsed) {
  trim("528");
  EXPECT_EQ(remaining(), "++++");
  trim("527");
  EXPECT_EQ(remaining(), "-+++");
  trim("264");
  EXPECT_EQ(remaining(), "--++");
  trim("0");
  EXPECT_EQ(remaining(), "----");
}

TEST_F(Trimming, ReadingCountsAsUse) {
  EXPECT_TRUE(read_sealed(files_[0]).file);
  trim("264");
  EXPECT_EQ(remaining(), "+--+");
}

TEST_F(Trimming, KeepsTheNewest) {
  trim("131", files_[1]);
  EXPECT_EQ(remaining(), "-+--");
}

TEST_F(Trimming, KeepsFilesInUse) {
  {
    const Sealed loaded = read_sealed(files_[0]);
    set_last_use(files_[0], 100);
    const int folder = open(files_[3].parent_path().c_str(), O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(flock(folder, LOCK_SH), 0);
    trim("0");
    EXPECT_EQ(remaining(), "+--+");
    close(folder);
  }
  trim("0");
  EXPECT_EQ(remaining(), "----");
}

// Another program's files in a folder that was named for the cache, and downloads.
TEST_F(Trimming, KeepsFilesOfOtherPrograms) {
  const std::string sha256(64, 'a');
  const std::vector<std::string> others = {
      "elir_bfr.pth",
      "model.blob",
      ".elir-0123456789abcdef.part",
      "openvino/model.blob",
      "openvino/2026.1/model.blob",
      "openvino/2026.1/" + sha256 + "/model.xml",
      "openvino/2026.1/" + sha256 + "/deeper/model.blob",
      "openvino/2026.1/" + sha256.substr(1) + "/f32.1.blob",
      "other/2026.1/" + sha256 + "/f32.1.blob",
  };
  for (const std::string& name : others) {
    fs::create_directories(path(name).parent_path());
    test::write_file(path(name), std::string(1000, 'y'));
    set_last_use(path(name), 1000);
  }
  fs::create_symlink(path("model.blob"), files_[0].parent_path() / "linked.blob");
  trim("0");
  EXPECT_EQ(remaining(), "----");
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(path(name))) << name;
  EXPECT_TRUE(fs::is_symlink(files_[0].parent_path() / "linked.blob"));
}

TEST_F(Trimming, RemovesFilesOfKilledWriters) {
  const fs::path abandoned = files_[0].parent_path() / ".elir-0123456789abcdef.part";
  const fs::path locked = files_[0].parent_path() / ".elir-fedcba9876543210.part";
  for (const fs::path& part : {abandoned, locked}) test::write_file(part, "half");
  const int writer = open(locked.c_str(), O_WRONLY);
  ASSERT_EQ(flock(writer, LOCK_EX), 0);
  trim("1G");
  EXPECT_FALSE(fs::exists(abandoned));
  EXPECT_TRUE(fs::exists(locked));
  EXPECT_EQ(remaining(), "++++");
  close(writer);
}

// ONNX Runtime names the files in its folder.
TEST_F(Trimming, OtherPartFilesAreNotUnfinished) {
  const fs::path engine = path("onnxruntime-tensorrt/" + std::string(64, 'a') + "/engine.part");
  fs::create_directories(engine.parent_path());
  test::write_file(engine, "whole");
  trim("1G");
  EXPECT_TRUE(fs::exists(engine));
}

TEST_F(Trimming, RemovesOldEmptyFolders) {
  trim("0");
  EXPECT_TRUE(fs::exists(path("openvino")));  // another process may be about to write
  for (int i = 0; i < 4; ++i) {               // removing a folder changes its parent's time
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      set_last_use(entry.path(), 1);
    }
    trim("0");
  }
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(Trimming, UnfinishedFilesAreLocked) {
  write_sealed(files_[0], [&](std::ostream& file) {
    file << "half";
    file.flush();
    trim("0");
    setenv("ELIR_CACHE_LIMIT", "1G", 1);
  });
  EXPECT_TRUE(read_sealed(files_[0]).file);
}

TEST_F(Trimming, FilesAboveTheLimitAreNotWritten) {
  setenv("ELIR_CACHE_LIMIT", "131", 1);
  EXPECT_EQ(error_of([&] { store(files_[0], std::string(100, 'x')); }),
            files_[0].string() + " has 0.0 MB, ELIR_CACHE_LIMIT is 0.0 MB");
  setenv("ELIR_CACHE_LIMIT", "132", 1);
  store(files_[0], std::string(100, 'z'));
  EXPECT_EQ(bytes_of(files_[0]).substr(0, 3), "zzz");
}

}  // namespace
}  // namespace elir::core
