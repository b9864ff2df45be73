#include <gtest/gtest.h>

#include "sha256.hpp"

namespace elir::core {
namespace {

std::string hash(const std::string& text) {
  Sha256 sha;
  sha.update(text.data(), text.size());
  return sha.finish();
}

// The examples of FIPS 180.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, InPieces) {
  const std::string text(1000, 'x');
  for (std::size_t piece = 1; piece < 200; ++piece) {
    Sha256 sha;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      sha.update(text.data() + at, std::min(piece, text.size() - at));
    }
    EXPECT_EQ(sha.finish(), hash(text)) << piece;
  }
}

}  // namespace
}  // namespace elir::core
