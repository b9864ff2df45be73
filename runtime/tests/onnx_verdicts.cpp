// Checks graphs with an input and output of 32x32 pixels, for a comparison with the Python runtime.
// Reads ONNX files from the standard input, each after a line with its size, and writes a line for
// each: the error, or nothing.
#include <iostream>
#include <string>

#include "error.hpp"
#include "onnx_check.hpp"

int main() {
  using elir::core::End;
  const auto image = [](const char* name) { return End{name, "uint8", {1, 32, 32, 3}}; };
  std::string size;
  while (std::getline(std::cin, size)) {
    std::string content(std::stoul(size), '\0');
    std::cin.read(content.data(), static_cast<std::streamsize>(content.size()));
    try {
      elir::core::check_onnx(content, elir::core::GraphEnds{{image("image")}, {image("restored")}});
      std::cout << "\n";
    } catch (const elir::core::Failure& failure) {
      std::cout << failure.what() << "\n";
    }
  }
  return 0;
}
