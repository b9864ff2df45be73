#include <gtest/gtest.h>

#include "sha256.hpp"

namespace elir::core {
namespace {

std::string hash(const std::string& text, bool plain = false) {
  Sha256 sha(plain);
  sha.update(text.data(), text.size());
  return sha.finish();
}

// The examples of FIPS 180.
TEST(Sha256, KnownAnswers) {
  for (const bool plain : {false, true}) {
    EXPECT_EQ(hash("", plain), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(hash("abc", plain),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", plain),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    EXPECT_EQ(hash(std::string(1000000, 'a'), plain),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

TEST(Sha256, TheProcessorsInstructionsComputeTheSame) {
  std::string text;
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(hash(text), hash(text, true)) << i;
    text += static_cast<char>(i * 7919 >> 3);
  }
}

TEST(Sha256, PiecesGiveWhatTheWholeGives) {
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
