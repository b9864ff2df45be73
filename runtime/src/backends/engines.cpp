#include "engines.hpp"

#include <algorithm>
#include <locale>
#include <regex>
#include <sstream>

#include "../text.hpp"

namespace elir::core {

Release release_of(const std::string& version) {
  Release made{};
  std::istringstream stream(version);
  stream.imbue(std::locale::classic());
  char dot = 0;
  stream >> made[0] >> dot >> made[1] >> dot >> made[2];
  return made;
}

// 10200 is 10.2.0, and 8601 was 8.6.1.
Release release_of(int number) {
  if (number < 10000) return {number / 1000, number / 100 % 10, number % 100};
  return {number / 10000, number / 100 % 100, number % 100};
}

// They run under the next major version, too. After 8 that is 10: 9 was for few platforms.
bool in_reach(const Release& made, const Release& here) {
  return made < here && here[0] <= (made[0] == 8 ? 10 : made[0] + 1);
}

bool made_for(const Artifact& artifact, const std::string& device) {
  return !artifact.target || *artifact.target == device;
}

bool is_for(const Artifact& artifact, const std::string& device) {
  constexpr int kAmpere = 80;
  const std::string jetson = "sm87";  // whose engines are for no other GPU, nor others' for it
  if (made_for(artifact, device)) return true;
  return artifact.hardware_compatibility == "ampere_plus" && device != jetson &&
         artifact.target != jetson && std::stoi(device.substr(2)) >= kAmpere;
}

std::string brief(const std::vector<std::string>& reasons) {
  // "[a.cpp::readHeader::765] Error Code 2: ... (... failed. In readHeader at /_src/a.cpp:765)"
  static const std::regex places(R"(^\[\S{1,200}\] |\bIn \S{1,200} at [^\s()]{1,200}:\d{1,9})");
  std::vector<std::string> plain;
  for (const std::string& reason : reasons) {
    std::string words = one_line(std::regex_replace(reason.substr(0, 1000), places, ""));
    if (std::find(plain.begin(), plain.end(), words) == plain.end()) {
      plain.push_back(std::move(words));
    }
  }
  return plain.empty() ? "it gives no reason" : one_line(joined(plain, "; "));
}

bool of_the_device(const std::vector<std::string>& reasons) {
  static const std::regex device(
      "cuda ?(runtime|error|driver|failure)|out ?of ?memory|memory allocation", std::regex::icase);
  // A file that was cut off is that, whatever the library misses besides.
  static const std::regex file("serialization assertion", std::regex::icase);
  const auto any = [&](const std::regex& words) {
    return std::any_of(reasons.begin(), reasons.end(), [&](const std::string& reason) {
      return std::regex_search(reason.substr(0, 1000), words);
    });
  };
  return any(device) && !any(file);
}

}  // namespace elir::core
