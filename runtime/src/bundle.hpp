// A bundle on disk: the folder, its manifest and its files, none of which is trusted.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.hpp"

namespace elir::core {

class Bundle {
 public:
  // Reads and checks the manifest, and that every file is there with its stated size.
  // Throws a bundle error.
  explicit Bundle(const std::string& folder);

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  // Where `file` is, after its contents were hashed and found right, and those of a graph to be
  // one that elir-export could have made, of the manifest's sizes. Throws a bundle error.
  std::filesystem::path checked_file(const std::string& file) const;

 private:
  std::filesystem::path located(const std::string& file) const;

  std::filesystem::path path_;
  Manifest manifest_;
};

}  // namespace elir::core
