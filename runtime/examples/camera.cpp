// A camera's loop without GStreamer: frames arrive at a fixed rate, and those that arrive while all
// buffers are busy are dropped, so that the delay is at most that of the queue.
//
//     camera BUNDLE [FRAMES]
//
// In a GStreamer pipeline the element elirrestore does this. What it does not: the loop goes on
// while the library restores on its own threads, and the program keeps the buffers. The camera is
// simulated; replace it by yours.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <elir/elir.hpp>
#include <thread>
#include <vector>

namespace {

using Bytes = std::vector<unsigned char>;

// Thirty grey frames a second, each a little lighter.
class Camera {
 public:
  Camera(int width, int height) : width_(width), height_(height) {}
  int width() const { return width_; }
  int height() const { return height_; }

  // Waits for the next frame. BGR, as from most drivers.
  void read(Bytes& frame) {
    next_ += std::chrono::milliseconds(33);
    std::this_thread::sleep_until(next_);
    frame.assign(frame.size(), static_cast<unsigned char>(count_++));
  }

 private:
  int width_;
  int height_;
  int count_ = 0;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now();
};

// A frame, its result, and whether the library is using them.
struct Slot {
  Bytes frame;
  Bytes result;
  std::atomic<bool> busy{false};
  int number = 0;
};

void show(const Slot& slot, elir_status status, const char* message) {
  if (status != ELIR_OK) {
    std::fprintf(stderr, "frame %d: %s\n", slot.number, message);
    return;
  }
  std::printf("frame %d: %d\n", slot.number, slot.result.front());
}

int run(const char* bundle, int frames) {
  // Declared before the restorer, whose destructor waits for the callbacks that use them.
  std::vector<Slot> slots(3);
  elir_params params = elir_default_params();
  params.queue = 1;
  params.log = [](void*, elir_log_level level, const char* message) {
    std::fprintf(stderr, "%s%s\n", level == ELIR_LOG_WARNING ? "warning: " : "", message);
  };
  elir::Restorer restorer(bundle, params);
  Camera camera(256, 256);
  const elir::Size size = restorer.output_size(camera.width(), camera.height());
  for (Slot& slot : slots) {
    slot.frame.resize(static_cast<std::size_t>(3 * camera.width() * camera.height()));
    slot.result.resize(static_cast<std::size_t>(3 * size.width * size.height));
  }

  Bytes unused(slots.front().frame.size());
  int dropped = 0;
  for (int number = 0; number < frames; ++number) {
    Slot* idle = nullptr;
    for (Slot& slot : slots) {
      if (!slot.busy) idle = &slot;
    }
    camera.read(idle == nullptr ? unused : idle->frame);
    if (idle == nullptr) {
      ++dropped;
      continue;
    }
    idle->busy = true;
    idle->number = number;
    const bool accepted = restorer.restore_async(
        elir::image(idle->frame.data(), camera.width(), camera.height(), 0, ELIR_BGR8),
        elir::image(idle->result.data(), size.width, size.height, 0, ELIR_BGR8),
        [idle](elir_status status, const char* message) {
          show(*idle, status, message);
          idle->busy = false;
        });
    if (!accepted) {
      idle->busy = false;
      ++dropped;
    }
  }
  restorer.wait();
  std::printf("%d of %d frames dropped\n", dropped, frames);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: camera BUNDLE [FRAMES]\n");
    return 2;
  }
  try {
    return run(argv[1], argc > 2 ? std::atoi(argv[2]) : 100);
  } catch (const elir::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
