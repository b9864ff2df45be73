// The command line: restores pictures.
//
//     elir-restore-cpp [options] BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image.h>
#include <stb_image_write.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <elir/elir.hpp>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr const char* kUsage =
    "usage: elir-restore-cpp [-h] [--backend NAME] [--precision NAME] [--threads N]\n"
    "                        [--fit resize|tile] [--force]\n"
    "                        BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]\n";

struct Arguments {
  elir_params params = elir_default_params();
  std::vector<std::string> names;
};

[[noreturn]] void refuse(const std::string& why) {
  std::fprintf(stderr, "%s\n%s", why.c_str(), kUsage);
  std::exit(2);
}

elir_fit fit_of(const std::string& name) {
  if (name == "resize") return ELIR_FIT_RESIZE;
  if (name == "tile") return ELIR_FIT_TILE;
  refuse("--fit is " + name + ", wanted resize or tile");
}

int number_of(const std::string& option, const std::string& value) {
  int number = 0;
  const char* const end = value.data() + value.size();
  const auto read = std::from_chars(value.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end) {
    refuse(option + " is " + value + ", wanted a number");
  }
  return number;
}

Arguments parsed(int count, char** given) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string name = given[i];
    const auto value = [&]() -> const char* {
      if (++i == count) refuse(name + " lacks its value");
      return given[i];
    };
    if (name == "-h" || name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (name == "--backend") {
      arguments.params.backend = value();
    } else if (name == "--precision") {
      arguments.params.precision = value();
    } else if (name == "--threads") {
      arguments.params.threads = number_of(name, value());
    } else if (name == "--fit") {
      arguments.params.fit = fit_of(value());
    } else if (name == "--force") {
      arguments.params.force = 1;
    } else if (name.rfind("--", 0) == 0) {
      refuse("no option " + name);
    } else {
      arguments.names.push_back(name);
    }
  }
  if (arguments.names.size() < 3 || arguments.names.size() % 2 == 0) {
    refuse("wanted a bundle and pairs of input and output");
  }
  return arguments;
}

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

// False, with a message, where a file cannot be read or written.
bool restore_file(elir::Restorer& restorer, const std::string& input, const std::string& output) {
  int width = 0;
  int height = 0;
  int channels = 0;
  const std::unique_ptr<stbi_uc, Free> pixels(
      stbi_load(input.c_str(), &width, &height, &channels, 3));
  if (!pixels) {
    std::fprintf(stderr, "%s cannot be read: %s\n", input.c_str(), stbi_failure_reason());
    return false;
  }
  const elir::Size size = restorer.output_size(width, height);
  std::vector<unsigned char> result(std::size_t{3} * static_cast<std::size_t>(size.width) *
                                    static_cast<std::size_t>(size.height));
  const auto start = std::chrono::steady_clock::now();
  restorer.restore(elir::image(pixels.get(), width, height),
                   elir::image(result.data(), size.width, size.height));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  if (stbi_write_png(output.c_str(), size.width, size.height, 3, result.data(), 0) == 0) {
    std::fprintf(stderr, "%s cannot be written\n", output.c_str());
    return false;
  }
  std::printf("%s: %dx%d, %.3f s\n", output.c_str(), size.width, size.height, took.count());
  return true;
}

}  // namespace

int main(int count, char** given) {
  Arguments arguments = parsed(count, given);
  arguments.params.log = [](void*, elir_log_level level, const char* message) {
    std::fprintf(stderr, "%s%s\n", level == ELIR_LOG_WARNING ? "warning: " : "", message);
  };
  const std::vector<std::string>& names = arguments.names;
  try {
    elir::Restorer restorer(names[0], arguments.params);
    bool all = true;
    for (std::size_t i = 1; i < names.size(); i += 2) {
      all = restore_file(restorer, names[i], names[i + 1]) && all;
    }
    return all ? 0 : 2;
  } catch (const elir::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (error.status() == ELIR_ERROR_INTERNAL) return 1;
    return error.status() == ELIR_ERROR_UNAVAILABLE ? 4 : 2;
  }
}
