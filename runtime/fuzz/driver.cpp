// Runs a fuzz target without libFuzzer: RUNS inputs, derived from the files of FOLDER by small
// random changes. The same arguments give the same inputs.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;
using Random = std::mt19937;

std::size_t below(Random& random, std::size_t limit) { return limit == 0 ? 0 : random() % limit; }

// Text that often breaks parsers.
const std::string kWords[] = {"null", "-1",      "1e999", "99999999999999999999",
                              "1.0",  "\"..\"",  "[",     "{\"",
                              "true", "\\u0000", "NaN",   "\"\"",
                              "1024", "65536",   "[{",    "\"batch\":2,"};

void change(Input& input, Random& random) {
  const auto at = [&](std::size_t place) {
    return input.begin() + static_cast<Input::difference_type>(place);
  };
  const std::size_t place = below(random, input.size());
  switch (below(random, 5)) {
    case 0:
      if (!input.empty()) input[place] ^= static_cast<std::uint8_t>(1U << below(random, 8));
      break;
    case 1:
      input.insert(at(place), static_cast<std::uint8_t>(below(random, 256)));
      break;
    case 2:
      input.erase(at(place), at(std::min(input.size(), place + below(random, 40))));
      break;
    case 3: {
      const std::string& word = kWords[below(random, std::size(kWords))];
      input.insert(at(place), word.begin(), word.end());
      break;
    }
    default:
      input.resize(place);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s RUNS FOLDER\n", arguments[0]);
    return 2;
  }
  std::vector<Input> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[2])) {
    std::ifstream file(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  Random random(1);
  const int runs = std::atoi(arguments[1]);
  for (int run = 0; run < runs; ++run) {
    Input input = seeds.empty() ? Input() : seeds[below(random, seeds.size())];
    for (std::size_t changes = 1 + below(random, 4); changes > 0; --changes) change(input, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%d inputs\n", runs);
  return 0;
}
