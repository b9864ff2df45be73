// A bundle on disk: the folder, its manifest and its files. None of them is trusted.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.hpp"

namespace elir::core {

class Bundle {
 public:
  // Reads the manifest and checks that every file exists with the size in the manifest. Throws a
  // bundle error.
  explicit Bundle(const std::string& folder);

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  // The path of `file`, after checking its SHA-256 and, for an ONNX graph, its content: see
  // onnx_check.hpp. Throws a bundle error.
  std::filesystem::path checked_file(const std::string& file) const;

 private:
  std::filesystem::path locate(const std::string& file) const;

  std::filesystem::path path_;
  Manifest manifest_;
};

}  // namespace elir::core
