#include "engines.hpp"

#include <algorithm>
#include <locale>
#include <regex>
#include <sstream>

#include "../text.hpp"

namespace elir::core {

Release release_of(const std::string& version) {
  Release release{};
  std::istringstream stream(version);
  stream.imbue(std::locale::classic());
  char dot = 0;
  stream >> release[0] >> dot >> release[1] >> dot >> release[2];
  return release;
}

// 10200 is 10.2.0, and 8601 was 8.6.1.
Release release_of(int number) {
  if (number < 10000) return {number / 1000, number / 100 % 10, number % 100};
  return {number / 10000, number / 100 % 100, number % 100};
}

// The next major version runs them, too. After 8 that is 10: 9 was for few platforms.
bool is_compatible(const Release& engine, const Release& installed) {
  return engine < installed && installed[0] <= (engine[0] == 8 ? 10 : engine[0] + 1);
}

bool is_built_for(const Artifact& artifact, const std::string& capability) {
  return !artifact.target || *artifact.target == capability;
}

bool runs_on(const Artifact& artifact, const std::string& capability) {
  constexpr int kAmpere = 80;
  const std::string jetson = "sm87";  // shares no engines with other GPUs
  if (is_built_for(artifact, capability)) return true;
  return artifact.hardware_compatibility == "ampere_plus" && capability != jetson &&
         artifact.target != jetson && std::stoi(capability.substr(2)) >= kAmpere;
}

std::string summarize(const std::vector<std::string>& messages) {
  // "[a.cpp::readHeader::765] Error Code 2: ... (... failed. In readHeader at /_src/a.cpp:765)"
  static const std::regex locations(R"(^\[\S{1,200}\] |\bIn \S{1,200} at [^\s()]{1,200}:\d{1,9})");
  std::vector<std::string> unique;
  for (const std::string& message : messages) {
    std::string line = one_line(std::regex_replace(message.substr(0, 1000), locations, ""));
    if (std::find(unique.begin(), unique.end(), line) == unique.end()) {
      unique.push_back(std::move(line));
    }
  }
  return unique.empty() ? "it gives no reason" : one_line(joined(unique, "; "));
}

bool is_device_error(const std::vector<std::string>& messages) {
  static const std::regex device(
      "cuda ?(runtime|error|driver|failure)|out ?of ?memory|memory allocation", std::regex::icase);
  // A truncated file, whatever else the library complains of.
  static const std::regex file("serialization assertion", std::regex::icase);
  const auto any = [&](const std::regex& pattern) {
    return std::any_of(messages.begin(), messages.end(), [&](const std::string& message) {
      return std::regex_search(message.substr(0, 1000), pattern);
    });
  };
  return any(device) && !any(file);
}

}  // namespace elir::core
