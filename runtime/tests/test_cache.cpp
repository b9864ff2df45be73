// Sealed files: what was written is read, and any damage is seen.
#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
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
  EXPECT_EQ(said([&] { keep(path("none") / "kept", "x"); }),
            (path("none") / "kept").string() + " cannot be written: No such file or directory");
}

TEST_F(CacheTest, NothingIsLeftOfAWriterThatFails) {
  EXPECT_THROW(
      write_sealed(path("kept"), [](std::ostream&) { throw std::runtime_error("no more"); }),
      std::runtime_error);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

// A seal of nothing would make it a damaged file for ever.
TEST_F(CacheTest, WhatCannotBeMappedIsNotKept) {
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
  const std::string named = path("named").string();
  EXPECT_EQ(cache_folder(named, {"a", "b"}), path("named") / "a" / "b");
  EXPECT_TRUE(fs::is_directory(path("named") / "a" / "b"));
  setenv("HOME", path("home").c_str(), 1);
  setenv("XDG_CACHE_HOME", path("x").c_str(), 1);
  EXPECT_EQ(cache_folder({}, {"a"}), path("x") / "elir-deploy" / "a");
  for (const char* ignored : {"", "relative"}) {
    setenv("XDG_CACHE_HOME", ignored, 1);
    EXPECT_EQ(cache_folder({}, {"a"}), path("home") / ".cache" / "elir-deploy" / "a");
  }
  test::write_file(path("file"), "");
  EXPECT_EQ(
      said([&] { cache_folder(path("file").string(), {"a"}); }),
      (path("file") / "a").string() + " cannot be made: set XDG_CACHE_HOME (Not a directory)");
}

}  // namespace
}  // namespace elir::core
