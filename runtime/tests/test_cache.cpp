// Sealed files: what was written is read, and any damage is seen.
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

void keep(const fs::path& path, const std::string& content) {
  write_sealed(path, [&](std::ostream& file) { file << content; });
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string said(const std::function<void()>& call) {
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

TEST_F(CacheTest, WhatWasWrittenIsRead) {
  for (const std::string& content : {std::string(), std::string("x"), std::string(100000, 'y')}) {
    keep(path("kept"), std::string(1000, 'o'));  // something older
    keep(path("kept"), content);
    const Sealed seen = read_sealed(path("kept"));
    ASSERT_TRUE(seen.file);
    EXPECT_FALSE(seen.damaged);
    EXPECT_EQ(std::string(seen.file->data(), seen.file->data() + seen.size), content);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1);
  }
}

TEST_F(CacheTest, AsPythonWritesIt) {
  keep(path("kept"), "content");
  // hashlib.sha256(b"content").digest()
  const std::string seal =
      "\xed\x70\x02\xb4\x39\xe9\xac\x84\x5f\x22\x35\x7d\x82\x2b\xac\x14"
      "\x44\x73\x0f\xbd\xb6\x01\x6d\x3e\xc9\x43\x22\x97\xb9\xec\x9f\x73";
  EXPECT_EQ(bytes_of(path("kept")), "content" + seal);
}

TEST_F(CacheTest, DamageIsSeen) {
  keep(path("kept"), "some content of it");
  const std::string whole = bytes_of(path("kept"));
  std::vector<std::string> damaged = {
      whole.substr(0, 20), whole.substr(0, whole.size() - 1), whole + '\0', whole.substr(1),
      whole.substr(0, 32), std::string(whole.size(), '\0'),   std::string()};
  for (std::size_t i = 0; i < whole.size(); ++i) {
    damaged.push_back(whole);
    damaged.back()[i] = static_cast<char>(damaged.back()[i] ^ 16);
  }
  for (const std::string& content : damaged) {
    test::write_file(path("kept"), content);
    const Sealed seen = read_sealed(path("kept"));
    EXPECT_FALSE(seen.file);
    EXPECT_TRUE(seen.damaged);
  }
}

TEST_F(CacheTest, WhatIsNoFile) {
  EXPECT_FALSE(read_sealed(path("none")).damaged);
  fs::create_directory(path("kept"));
  EXPECT_TRUE(read_sealed(path("kept")).damaged);
  EXPECT_EQ(said([&] { keep(path("kept"), "x"); }),
            path("kept").string() + " cannot be written: Is a directory");
  EXPECT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(read_sealed(path("pipe")).damaged) << "and nobody waits";
}

TEST_F(CacheTest, ThePlaceCannotBeWritten) {
  keep(path("made") / "kept", "x");
  EXPECT_TRUE(read_sealed(path("made") / "kept").file);
  test::write_file(path("file"), "");
  EXPECT_EQ(said([&] { keep(path("file") / "a" / "kept", "x"); }),
            (path("file") / "a").string() + " cannot be made: set ELIR_CACHE (Not a directory)");
}

TEST_F(CacheTest, NothingIsLeftOfAWriterThatFails) {
  EXPECT_THROW(
      write_sealed(path("kept"), [](std::ostream&) { throw std::runtime_error("no more"); }),
      std::runtime_error);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

// A seal of nothing would make it a damaged file for ever.
TEST_F(CacheTest, WhatCannotBeMappedIsNotKept) {
  setenv("ELIR_CACHE_LIMIT", "2G", 1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  const std::string seen = said([&] {
    write_sealed(path("kept"), [](std::ostream& file) {
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
  EXPECT_EQ(seen, path("kept").string() + " cannot be written: Cannot allocate memory");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(CacheTest, WhatIsMappedOutlivesTheFile) {
  keep(path("kept"), "content");
  const Sealed seen = read_sealed(path("kept"));
  seen.file->data()[0] = 'C';
  EXPECT_EQ(bytes_of(path("kept")).substr(0, 7), "content");
  keep(path("kept"), "another");
  fs::remove(path("kept"));
  EXPECT_EQ(std::string(seen.file->data(), seen.file->data() + seen.size), "Content");
}

TEST_F(CacheTest, WhereTheFolderIs) {
  unsetenv("ELIR_CACHE");
  EXPECT_EQ(cache_folder("named"), "named");
  setenv("HOME", path("home").c_str(), 1);
  setenv("XDG_CACHE_HOME", path("x").c_str(), 1);
  EXPECT_EQ(cache_folder({}), path("x") / "elir-deploy");
  for (const auto& [given, wanted] : {std::pair<std::string, fs::path>("/a/b", "/a/b"),
                                      {"a", "a"},
                                      {"~", path("home")},
                                      {"~/a", path("home") / "a"},
                                      {"~a", "~a"},
                                      {"", path("x") / "elir-deploy"}}) {
    setenv("ELIR_CACHE", given.c_str(), 1);
    EXPECT_EQ(cache_folder({}), wanted);
    EXPECT_EQ(cache_folder("named"), "named");
  }
  unsetenv("ELIR_CACHE");
  for (const char* ignored : {"", "relative"}) {
    setenv("XDG_CACHE_HOME", ignored, 1);
    EXPECT_EQ(cache_folder({}), path("home") / ".cache" / "elir-deploy");
  }
}

TEST_F(CacheTest, TheLimit) {
  unsetenv("ELIR_CACHE_LIMIT");
  EXPECT_EQ(cache_limit(), 1000000000U);
  for (const auto& [given, wanted] : {std::pair<const char*, std::uint64_t>("", 1000000000),
                                      {"0", 0},
                                      {"1", 1},
                                      {"500M", 500000000},
                                      {"2G", 2000000000},
                                      {"999999G", 999999000000000},
                                      {"999999999999999", 999999999999999}}) {
    setenv("ELIR_CACHE_LIMIT", given, 1);
    EXPECT_EQ(cache_limit(), wanted);
  }
  for (const std::string wrong : {"-1", "1 G", "G", "1g", "1.5G", "1000000G", "many"}) {
    setenv("ELIR_CACHE_LIMIT", wrong.c_str(), 1);
    EXPECT_EQ(said([] { cache_limit(); }),
              "ELIR_CACHE_LIMIT is " + wrong + ", wanted a size such as 500M or 2G, or 0");
  }
  unsetenv("ELIR_CACHE_LIMIT");
}

// Compiled models of 132 bytes in a cache of their own; the first was not used for longest.
class Trimming : public CacheTest {
 protected:
  void SetUp() override {
    const std::string sha256(64, 'a');
    for (const std::string& name :
         {"openvino/2026.1/" + sha256 + "/f32.1.blob", "tensorrt-rtx/1.7/" + sha256 + "/86.2.cache",
          std::string("tensorrt/10.3/timing.cache"),
          "onnxruntime-tensorrt/" + sha256 + "/x.engine"}) {
      files_.push_back(path(name));
      keep(files_.back(), std::string(100, 'x'));
      used(files_.back(), 10 - static_cast<int>(files_.size()));
    }
  }
  void TearDown() override { unsetenv("ELIR_CACHE_LIMIT"); }

  static void used(const fs::path& file, int days_ago) {
    timespec then{std::time(nullptr) - 86400 * days_ago, 0};
    const timespec times[] = {then, then};
    ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  }
  void trim(const std::string& limit, const fs::path& newest = {}) {
    setenv("ELIR_CACHE_LIMIT", limit.c_str(), 1);
    trim_cache(folder_.path(), newest);
  }
  std::string left() const {
    std::string made;
    for (const fs::path& file : files_) made += fs::exists(file) ? '+' : '-';
    return made;
  }
  std::vector<fs::path> files_;
};

TEST_F(Trimming, WhatWasNotUsedForLongestGoesFirst) {
  trim("528");
  EXPECT_EQ(left(), "++++");
  trim("527");
  EXPECT_EQ(left(), "-+++");
  trim("264");
  EXPECT_EQ(left(), "--++");
  trim("0");
  EXPECT_EQ(left(), "----");
}

TEST_F(Trimming, ReadingIsUse) {
  EXPECT_TRUE(read_sealed(files_[0]).file);
  trim("264");
  EXPECT_EQ(left(), "+--+");
}

TEST_F(Trimming, TheNewestStays) {
  trim("131", files_[1]);
  EXPECT_EQ(left(), "-+--");
}

TEST_F(Trimming, WhatIsInUseStays) {
  {
    const Sealed held = read_sealed(files_[0]);
    used(files_[0], 100);
    const int folder = open(files_[3].parent_path().c_str(), O_RDONLY | O_DIRECTORY);
    ASSERT_EQ(flock(folder, LOCK_SH), 0);
    trim("0");
    EXPECT_EQ(left(), "+--+");
    close(folder);
  }
  trim("0");
  EXPECT_EQ(left(), "----");
}

// Another program's files in a folder that was named for the cache, and downloads.
TEST_F(Trimming, OthersFilesStay) {
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
    used(path(name), 1000);
  }
  fs::create_symlink(path("model.blob"), files_[0].parent_path() / "linked.blob");
  trim("0");
  EXPECT_EQ(left(), "----");
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(path(name))) << name;
  EXPECT_TRUE(fs::is_symlink(files_[0].parent_path() / "linked.blob"));
}

TEST_F(Trimming, WhatKilledWritersLeftGoes) {
  const fs::path abandoned = files_[0].parent_path() / ".elir-0123456789abcdef.part";
  const fs::path locked = files_[0].parent_path() / ".elir-fedcba9876543210.part";
  for (const fs::path& part : {abandoned, locked}) test::write_file(part, "half");
  const int writer = open(locked.c_str(), O_WRONLY);
  ASSERT_EQ(flock(writer, LOCK_EX), 0);
  trim("1G");
  EXPECT_FALSE(fs::exists(abandoned));
  EXPECT_TRUE(fs::exists(locked));
  EXPECT_EQ(left(), "++++");
  close(writer);
}

// ONNX Runtime names the files in its folder.
TEST_F(Trimming, OnlyOurUnfinishedFilesAreUnfinished) {
  const fs::path engine = path("onnxruntime-tensorrt/" + std::string(64, 'a') + "/engine.part");
  fs::create_directories(engine.parent_path());
  test::write_file(engine, "whole");
  trim("1G");
  EXPECT_TRUE(fs::exists(engine));
}

TEST_F(Trimming, FoldersThatAreEmptyForLongGo) {
  trim("0");
  EXPECT_TRUE(fs::exists(path("openvino")));  // somebody may be about to write
  for (int i = 0; i < 4; ++i) {               // an inner folder that goes changes the outer one
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      used(entry.path(), 1);
    }
    trim("0");
  }
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(Trimming, AnUnfinishedFileIsLocked) {
  write_sealed(files_[0], [&](std::ostream& file) {
    file << "half";
    file.flush();
    trim("0");
    setenv("ELIR_CACHE_LIMIT", "1G", 1);
  });
  EXPECT_TRUE(read_sealed(files_[0]).file);
}

TEST_F(Trimming, WhatTheLimitDoesNotAllowIsNotWritten) {
  setenv("ELIR_CACHE_LIMIT", "131", 1);
  EXPECT_EQ(said([&] { keep(files_[0], std::string(100, 'x')); }),
            files_[0].string() + " has 0.0 MB, more than the 0.0 MB that ELIR_CACHE_LIMIT allows");
  setenv("ELIR_CACHE_LIMIT", "132", 1);
  keep(files_[0], std::string(100, 'z'));
  EXPECT_EQ(bytes_of(files_[0]).substr(0, 3), "zzz");
}

}  // namespace
}  // namespace elir::core
