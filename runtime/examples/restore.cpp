// A command line that restores pictures.
//
//     elir-restore-cpp [options] BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]
//
// With --faces, a bundle for aligned faces restores those of whole photographs.
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
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr const char* kUsage =
    "usage: elir-restore-cpp [-h] [--backend NAME] [--precision NAME] [--threads N]\n"
    "                        [--fit resize|tile] [--force] [--tile-overlap PIXELS]\n"
    "                        [--sigma-s S] [--seed N] [--strength 0-1]\n"
    "                        [--faces auto|all|largest|centre|aligned] [--long-side PIXELS]\n"
    "                        [--scale 1|2|4] [--background BUNDLE]\n"
    "                        BUNDLE INPUT OUTPUT.png [INPUT OUTPUT.png ...]\n";

struct Arguments {
  elir_params params = elir_default_params();
  std::optional<elir_faces> faces;  // none: every input is restored as it is
  int scale = 1;
  std::string background;  // a bundle
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

elir_faces parse_faces(const std::string& name) {
  constexpr const char* kNames[] = {"auto", "all", "largest", "centre", "aligned"};
  for (int i = 0; i < 5; ++i) {
    if (name == kNames[i]) return static_cast<elir_faces>(i);
  }
  exit_with_usage("--faces is " + name + ", expected auto, all, largest, centre or aligned");
}

// Below `least` are the library's numbers for "not set".
template <typename Number>
Number parse_number(const std::string& option, const std::string& value, Number least) {
  Number number = 0;
  const char* const end = value.data() + value.size();
  const auto read = std::from_chars(value.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end || number < least) {
    exit_with_usage(option + " is " + value + ", expected a number from " + std::to_string(least) +
                    " on");
  }
  return number;
}

// std::from_chars reads no decimals before GCC 11.
double parse_decimal(const std::string& option, const std::string& value) {
  char* end = nullptr;
  const double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0' || !(number >= 0)) {
    exit_with_usage(option + " is " + value + ", expected a number from 0 on");
  }
  return number;
}

void check(const Arguments& arguments) {
  if (arguments.names.size() < 3 || arguments.names.size() % 2 == 0) {
    exit_with_usage("expected a bundle and pairs of input and output");
  }
  if (!arguments.faces && (arguments.scale != 1 || !arguments.background.empty())) {
    exit_with_usage("--scale and --background need --faces");
  }
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
      arguments.params.threads = parse_number<int>(name, value(), 1);
    } else if (name == "--tile-overlap") {
      arguments.params.tile_overlap = parse_number<std::int32_t>(name, value(), 0);
    } else if (name == "--seed") {
      arguments.params.seed = parse_number<std::int64_t>(name, value(), 0);
    } else if (name == "--sigma-s") {
      arguments.params.sigma_s = parse_decimal(name, value());
    } else if (name == "--strength") {
      arguments.params.strength = parse_decimal(name, value());
    } else if (name == "--fit") {
      arguments.params.fit = parse_fit(value());
    } else if (name == "--faces") {
      arguments.faces = parse_faces(value());
    } else if (name == "--long-side") {
      arguments.params.long_side = parse_number<std::int32_t>(name, value(), 1);
    } else if (name == "--scale") {
      arguments.scale = parse_number<int>(name, value(), 1);
    } else if (name == "--background") {
      arguments.background = value();
    } else if (name == "--force") {
      arguments.params.force = 1;
    } else if (name.rfind("--", 0) == 0) {
      exit_with_usage("unknown option " + name);
    } else {
      arguments.names.push_back(name);
    }
  }
  check(arguments);
  return arguments;
}

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

struct Picture {
  int width = 0;
  int height = 0;
  std::vector<unsigned char> pixels;

  Picture(int across, int down)
      : width(across),
        height(down),
        pixels(std::size_t{3} * static_cast<std::size_t>(across) * static_cast<std::size_t>(down)) {
  }
  elir_image image() { return elir::image(pixels.data(), width, height); }
};

class Program {
 public:
  explicit Program(const Arguments& arguments)
      : arguments_(arguments), restorer_(arguments.names[0], arguments.params) {
    if (arguments.background.empty()) return;
    elir_params params = arguments.params;
    params.fit = ELIR_FIT_TILE;
    params.precision = nullptr;
    // The photograph is mixed once, with the background in it.
    if (params.strength > 0) params.strength = 1;
    background_.emplace(arguments.background, params);
  }

  // Returns false after printing a message if a file cannot be read or written.
  bool restore_file(const std::string& input, const std::string& output) {
    int width = 0;
    int height = 0;
    int channels = 0;
    const std::unique_ptr<stbi_uc, Free> pixels(
        stbi_load(input.c_str(), &width, &height, &channels, 3));
    if (!pixels) {
      std::fprintf(stderr, "%s cannot be read: %s\n", input.c_str(), stbi_failure_reason());
      return false;
    }
    const elir_image image = elir::image(pixels.get(), width, height);
    const auto start = std::chrono::steady_clock::now();
    Picture result = arguments_.faces ? photograph(image) : restored(restorer_, image);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (stbi_write_png(output.c_str(), result.width, result.height, 3, result.pixels.data(), 0) ==
        0) {
      std::fprintf(stderr, "%s cannot be written\n", output.c_str());
      return false;
    }
    std::printf("%s: %dx%d, %.3f s\n", output.c_str(), result.width, result.height, took.count());
    return true;
  }

 private:
  static Picture restored(elir::Restorer& restorer, const elir_image& input) {
    const elir::Size size = restorer.output_size(input.width, input.height);
    Picture result(size.width, size.height);
    restorer.restore(input, result.image());
    return result;
  }

  Picture photograph(const elir_image& input) {
    Picture result(input.width * arguments_.scale, input.height * arguments_.scale);
    std::optional<Picture> around;
    if (background_) around = restored(*background_, input);
    const elir_image background = around ? around->image() : elir_image{};
    for (const elir_face& face : restorer_.restore_photo(input, result.image(), *arguments_.faces,
                                                         around ? &background : nullptr)) {
      std::printf("face at %.0f, %.0f: %s\n", (face.box[0] + face.box[2]) / 2,
                  (face.box[1] + face.box[3]) / 2, face.restored != 0 ? "restored" : face.reason);
    }
    return result;
  }

  const Arguments& arguments_;
  elir::Restorer restorer_;
  std::optional<elir::Restorer> background_;
};

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments = parse_arguments(argc, argv);
  arguments.params.log = [](void*, elir_log_level level, const char* message) {
    std::fprintf(stderr, "%s%s\n", level == ELIR_LOG_WARNING ? "warning: " : "", message);
  };
  const std::vector<std::string>& names = arguments.names;
  try {
    Program program(arguments);
    bool all = true;
    for (std::size_t i = 1; i < names.size(); i += 2) {
      all = program.restore_file(names[i], names[i + 1]) && all;
    }
    return all ? 0 : 2;
  } catch (const elir::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (error.status() == ELIR_ERROR_INTERNAL) return 1;
    return error.status() == ELIR_ERROR_UNAVAILABLE ? 4 : 2;
  }
}
