// Reads manifests, one on each line, and prints the elir_status that each gives.
#include <iostream>
#include <string>

#include "guard.hpp"
#include "manifest.hpp"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << elir::core::guarded([&] { elir::core::read_manifest(line); }) << '\n';
  }
  return 0;
}
