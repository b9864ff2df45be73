// Prints whether each of the two TensorRT backends is available, or why not.
#include <cstdio>

#include "backends/all.hpp"

int main() {
  using namespace elir::core;
  for (const Backend* backend : {&tensorrt_backend(), &tensorrt_rtx_backend()}) {
    const auto reason = backend->available();
    std::printf("%s: %s\n", backend->name.c_str(), reason ? reason->c_str() : "available");
  }
}
