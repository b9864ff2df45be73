// A command line that restores pictures.
//
//     elir-restore-cpp [options] BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image.h>
#include <stb_image_write.h>

#include <charconv>
#include <chrono>
#include <cstdint>
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
    "                        [--fit resize|tile] [--force] [--tile-overlap PIXELS]\n"
    "                        [--sigma-s S] [--seed N] [--strength 0-1]\n"
    "                        BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]\n";

struct Arguments {
  elir_params params = elir_default_params();
  std::vector<std::string> names;
};

[[noreturn]] void exit_with_usage(const std::string& error) {
  std::fprintf(stderr, "%s\n%s", error.c_str(), kUsage);
  std::exit(2);
}

elir_fit parse_fit(const std::string& name) {
  if (name == "resize") return ELIR_FIT_RESIZE;
  if (name == "tile") return ELIR_FIT_TILE;
  exit_with_usage("--fit is " + name + ", expected resize or tile");
}

template <typename Number>
Number parse_number(const std::string& option, const std::string& value) {
  Number number = 0;
  const char* const end = value.data() + value.size();
  const auto read = std::from_chars(value.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end) {
    exit_with_usage(option + " is " + value + ", expected a number");
  }
  return number;
}

// std::from_chars reads no decimals before GCC 11.
double parse_decimal(const std::string& option, const std::string& value) {
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0')
    exit_with_usage(option + " is " + value + ", expected a number");
  return number;
}

Arguments parse_arguments(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> const char* {
      if (++i == argc) exit_with_usage(name + " needs a value");
      return argv[i];
    };
    if (name == "-h" || name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (name == "--backend") {
      arguments.params.backend = value();
    } else if (name == "--precision") {
      arguments.params.precision = value();
    } else if (name == "--threads") {
      arguments.params.threads = parse_number<int>(name, value());
    } else if (name == "--tile-overlap") {
      arguments.params.tile_overlap = parse_number<std::int32_t>(name, value());
    } else if (name == "--seed") {
      arguments.params.seed = parse_number<std::int64_t>(name, value());
    } else if (name == "--sigma-s") {
      arguments.params.sigma_s = parse_decimal(name, value());
    } else if (name == "--strength") {
      arguments.params.strength = parse_decimal(name, value());
    } else if (name == "--fit") {
      arguments.params.fit = parse_fit(value());
    } else if (name == "--force") {
      arguments.params.force = 1;
    } else if (name.rfind("--", 0) == 0) {
      exit_with_usage("unknown option " + name);
    } else {
      arguments.names.push_back(name);
    }
  }
  if (arguments.names.size() < 3 || arguments.names.size() % 2 == 0) {
    exit_with_usage("expected a bundle and pairs of input and output");
  }
  return arguments;
}

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

// Returns false after printing a message if a file cannot be read or written.
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

int main(int argc, char** argv) {
  Arguments arguments = parse_arguments(argc, argv);
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
