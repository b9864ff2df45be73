/* elir: restores images with an ELIR bundle. This header is the manual of the library.
 *
 *     elir_restorer *restorer = NULL;
 *     if (elir_create("bsr.bundle", NULL, &restorer) != ELIR_OK) {
 *         fprintf(stderr, "%s\n", elir_last_error());
 *         return 1;
 *     }
 *     elir_image in = {.data = pixels, .width = width, .height = height};
 *     elir_image out = {.data = result, .width = 4 * width, .height = 4 * height};
 *     if (elir_restore(restorer, &in, &out) != ELIR_OK) fprintf(stderr, "%s\n", elir_last_error());
 *     elir_destroy(restorer);
 *
 * A bundle is a folder made by elir-export: one network and everything a runtime needs to know
 * about it. The network takes pictures of one size, and returns pictures of the same size. An
 * image is first enlarged by the task's factor (`upscale`). If it does not have the network's size
 * then, it is either resized to it and the result resized back, or cut into overlapping tiles whose
 * results are blended.
 *
 * OWNERSHIP. Every buffer belongs to whoever allocated it. The library keeps no pointer to an image
 * after the call it was passed to or, for elir_restore_async, after the callback. elir_create
 * copies the strings in elir_params. Strings that the library returns belong to it and are never
 * freed by the caller; how long each is valid is documented with it.
 *
 * THREADS. Any number of restorers may exist at once, and they never wait for each other. All
 * functions except elir_destroy may be called on one restorer from several threads at the same
 * time: up to `concurrency` images are restored concurrently, further calls wait for their turn. A
 * single call may itself use several processor cores (see `threads`). The calling thread's current
 * CUDA device is the same after a call as before it.
 *
 * FORKS. A child process made by fork() has none of the library's threads and cannot use a restorer
 * of its parent: every function then gives ELIR_ERROR_USAGE at once, and elir_destroy does nothing.
 * Create restorers after the fork. A child of a process that has loaded ONNX Runtime must end by
 * _exit(): at exit() that library waits for threads that are not there.
 *
 * ERRORS. A function that can fail returns an elir_status; elir_last_error() then says in one line
 * what is wrong, which value was seen and which was expected, and what to do. No C++ exception
 * leaves the library. A failed call has no effect, except that the pixels of its output images are
 * undefined.
 *
 * MEMORY. A restorer has working memory for each of its `concurrency` sessions. It grows while the
 * first image of a size is restored, and is kept. After that, restoring another image of that size
 * makes no allocation in this library. (The first elir_restore_async creates threads and a queue,
 * and elir_restore_batch creates threads in every call.) What the backend allocates is up to it.
 *
 * STRUCTS. elir_params and elir_description may grow at their end in later versions. They begin
 * with their size, so that a program and a library of different versions use the fields both know;
 * setting a field that the library is too old to know is an error. All other structs are frozen:
 * elir_image, elir_shape, elir_tensor and elir_face never change.
 */
#ifndef ELIR_ELIR_H_
#define ELIR_ELIR_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#ifdef ELIR_BUILDING
#define ELIR_API __declspec(dllexport)
#else
#define ELIR_API __declspec(dllimport)
#endif
#else
#define ELIR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header; elir_version() returns that of the library. */
#define ELIR_VERSION_MAJOR 0
#define ELIR_VERSION_MINOR 1
#define ELIR_VERSION_PATCH 0

/* One bundle loaded on one backend. */
typedef struct elir_restorer elir_restorer;

typedef enum elir_status {
  ELIR_OK = 0,
  ELIR_ERROR_USAGE = 1,  /* an argument is wrong, or does not fit the bundle */
  ELIR_ERROR_BUNDLE = 2, /* the bundle is damaged, incomplete, of another format, or holds nothing
                            that can run here */
  ELIR_ERROR_IMAGE = 3,  /* an image has the wrong size, stride, format or memory */
  ELIR_ERROR_UNAVAILABLE = 4, /* a backend or device is missing or failed, or does not do this */
  ELIR_ERROR_BUSY = 5,        /* the queue of elir_restore_async is full: drop the frame, or wait */
  ELIR_ERROR_MEMORY = 6,      /* out of memory */
  ELIR_ERROR_INTERNAL = 7     /* a bug in this library */
} elir_status;

/* The order of the three bytes of a pixel. */
typedef enum elir_format { ELIR_RGB8 = 0, ELIR_BGR8 = 1 } elir_format;

/* Where the pixels of an image are. */
typedef enum elir_memory {
  ELIR_MEMORY_HOST = 0,
  ELIR_MEMORY_CUDA = 1 /* on the restorer's GPU. No backend accepts it yet: such an image is refused
                          with ELIR_ERROR_UNAVAILABLE */
} elir_memory;

/* What happens to an image that does not have the network's size. */
typedef enum elir_fit {
  ELIR_FIT_DEFAULT = 0, /* resize for models of aligned faces, tile for all others */
  ELIR_FIT_RESIZE = 1,  /* stretch it to the network's size, ignoring proportions, and the result
                           back */
  ELIR_FIT_TILE = 2     /* overlapping tiles, blended: keeps detail, takes time with the area */
} elir_fit;

typedef enum elir_mode {
  ELIR_MODE_LATENCY = 0,   /* each image as soon as possible */
  ELIR_MODE_THROUGHPUT = 1 /* the most images per second: several at once, each taking longer */
} elir_mode;

typedef enum elir_log_level { ELIR_LOG_INFO = 0, ELIR_LOG_WARNING = 1 } elir_log_level;

/* `message` is one line of UTF-8 without a newline, valid during the call only. Called at any time
 * until the restorer is destroyed, by the thread that called the library or, for
 * elir_restore_async, by one of the library's. Must not throw. */
typedef void (*elir_log_callback)(void* user, elir_log_level level, const char* message);

/* Called once for every image that elir_restore_async accepted, by a thread of the library.
 * `message` describes the error in one line and is empty if there was none; it is valid during the
 * call only. Must not throw. May call any function on its restorer except elir_wait and
 * elir_destroy. */
typedef void (*elir_done_callback)(void* user, elir_status status, const char* message);

/* How to load a bundle. Start from elir_default_params(). */
typedef struct elir_params {
  size_t struct_size;    /* set by elir_default_params and elir_init_params */
  const char* backend;   /* one of elir_backends(); NULL or "auto": the fastest that the bundle and
                            this machine support */
  const char* precision; /* "fp32", "fp16", "bf16" or "int8"; NULL: the fastest that the
                            bundle's verification allows unasked. If this or `backend` is left
                            open, each candidate is tried first, and one that fails is skipped with
                            a warning to `log`. If both are named, there is no fallback */
  elir_fit fit;
  int force;   /* nonzero: run a model of aligned faces in tiles, although that makes no sense */
  int threads; /* processor threads per image; 0: the backend decides */
  int device;  /* index of the GPU, from 0 */
  elir_mode mode;
  int skip_trial; /* nonzero: do not restore the bundle's reference image first. The trial costs one
                     run and detects devices that lack memory or libraries, and processors that
                     compute wrongly. If both backend and precision are named, only reduced
                     precisions are tried */
  int queue;      /* images that may wait in elir_restore_async, 1 to 1024 */
  elir_log_callback log; /* NULL: no log. Used as long as the restorer exists */
  void* log_user;        /* passed to `log` */
  const char* cache; /* UTF-8 path of a folder that keeps compiled models for the next start; NULL:
                        $ELIR_CACHE, or elir-deploy in $XDG_CACHE_HOME or ~/.cache, shared with the
                        Python runtime; "": keep nothing. Compiled models may take $ELIR_CACHE_LIMIT
                        bytes (such as 500M; default 1G; 0: keep nothing); the least recently used
                        are removed first. Its files are code: protect the folder like a program. If
                        it cannot be written, `log` gets a warning and nothing fails */
} elir_params;

/* An image: 8 bits a channel, 3 channels a pixel, no padding between pixels. Fields left at zero
 * mean tightly packed RGB in host memory. Frozen. */
typedef struct elir_image {
  void* data;       /* first byte of the top row; never written to if the image is an input */
  int32_t width;    /* in pixels, at least 1 */
  int32_t height;   /* in pixels, at least 1 */
  ptrdiff_t stride; /* bytes from one row to the next, at least 3 * width; negative if rows are
                       stored bottom up; 0: 3 * width */
  elir_format format;
  elir_memory memory;
  void* stream; /* for ELIR_MEMORY_CUDA, the cudaStream_t that the image belongs to: the library
                   reads or writes the pixels after the work queued there before the call, and work
                   queued there after the call follows the library's. NULL: the legacy default
                   stream. Must be NULL for ELIR_MEMORY_HOST */
} elir_image;

/* Images that the network takes in one run. Frozen. */
typedef struct elir_shape {
  int32_t batch;  /* at most this many */
  int32_t height; /* of each, in pixels, after enlarging */
  int32_t width;
} elir_shape;

/* A face found in an image. No function returns faces yet; this is the layout they will have.
 * Coordinates are pixels of that image, x to the right and y down from its top left corner. The
 * five landmarks are x and y of the left eye, the right eye, the tip of the nose, and the left and
 * the right corner of the mouth, left and right as seen in the image. Frozen. */
typedef struct elir_face {
  double box[4]; /* left, top, right and bottom edge */
  double landmarks[5][2];
  double score;       /* the detector's confidence, 0 to 1 */
  int32_t restored;   /* nonzero: the face was restored and put back into the image */
  const char* reason; /* in one line, why it was not restored; empty if it was. Valid as long as
                         the restorer */
} elir_face;

typedef enum elir_dtype { ELIR_UINT8 = 0, ELIR_FLOAT32 = 1 } elir_dtype;
typedef enum elir_layout { ELIR_NHWC = 0, ELIR_NCHW = 1 } elir_layout;

/* A tensor at one end of the bare network, for elir_run: RGB images, with values from 0 to 255 as
 * ELIR_UINT8 or 0 to 1 as ELIR_FLOAT32. Frozen. */
typedef struct elir_tensor {
  const char* name; /* valid as long as the restorer */
  elir_dtype dtype;
  elir_layout layout;
  int32_t shape[4]; /* ELIR_NHWC: batch, height, width, 3. ELIR_NCHW: batch, 3, height, width */
  size_t bytes;     /* of the whole tensor */
} elir_tensor;

/* What was loaded. Pointers are valid as long as the restorer. */
typedef struct elir_description {
  size_t struct_size;       /* set this to sizeof(elir_description) before elir_describe */
  const char* task;         /* such as "bsr" */
  const char* backend;      /* such as "openvino" */
  const char* precision;    /* as in elir_params */
  const elir_shape* shapes; /* that the bundle was made for */
  int32_t shape_count;      /* at least 1 */
  int32_t largest_batch;    /* of all shapes */
  int32_t upscale;          /* a result is this many times as wide and as high as its input */
  elir_fit fit;             /* ELIR_FIT_RESIZE or ELIR_FIT_TILE */
  int32_t aligned_faces;    /* nonzero: trained on crops of aligned faces only */
  int32_t face_detector;    /* nonzero: the bundle contains a face detector */
  int32_t random;           /* nonzero: the weights are random, useful to measure speed only */
  int32_t concurrency;      /* images restored concurrently */
  elir_tensor input;        /* of elir_run, in the first of `shapes` */
  elir_tensor output;
} elir_description;

/* The library's version, such as "0.1.0". Valid forever. */
ELIR_API const char* elir_version(void);

/* Names of the backends built into this library, separated by ", ", in the order in which they are
 * considered; empty if memory runs out. Valid forever. Whether a backend works on this machine
 * shows when it is used. */
ELIR_API const char* elir_backends(void);

/* What went wrong in the last call on this thread that did not return ELIR_OK, in one line of
 * UTF-8; empty if there was none. Valid until the next call on this thread. Calls that succeed do
 * not change it. */
ELIR_API const char* elir_last_error(void);

/* A status in words, such as "usage error". Valid forever. */
ELIR_API const char* elir_status_name(elir_status status);

/* Sets `struct_size`, which must be the caller's sizeof(elir_params), and every other field that
 * both sides know to its default: automatic backend and precision, latency, a queue of 2, no log,
 * the user's cache folder. Fields that the library does not know become zero. */
ELIR_API void elir_init_params(elir_params* params, size_t struct_size);

/* The same, for C and C++. Inline, so that it uses the struct of the caller's header. */
static inline elir_params elir_default_params(void) {
  elir_params params;
  elir_init_params(&params, sizeof params);
  return params;
}

/* Loads a bundle: checks its manifest and the SHA-256 of the files it uses, opens the backend, and
 * tries it on the bundle's reference image (see `skip_trial`). Takes from a tenth
 * of a second to minutes, depending on model and backend.
 *
 *   bundle    path of the folder, UTF-8.
 *   params    NULL for the defaults; read during the call only.
 *   restorer  receives the new restorer, to be passed to elir_destroy; NULL if the call fails.
 *
 * ELIR_ERROR_USAGE, _BUNDLE, _UNAVAILABLE, _MEMORY. A backend or precision that is named is used or
 * the call fails; there is no silent fallback. Hashes detect damage, not malice: load bundles only
 * from people you trust. */
ELIR_API elir_status elir_create(const char* bundle, const elir_params* params,
                                 elir_restorer** restorer);

/* Stops accepting images, waits for those of elir_restore_async and their callbacks, and frees
 * everything. NULL is allowed. No other call on this restorer may be in progress or follow, except
 * those its callbacks make meanwhile; there, elir_restore_async returns ELIR_ERROR_BUSY. */
ELIR_API void elir_destroy(elir_restorer* restorer);

/* Fills `description`, whose struct_size must be set. If it is larger than the library's, fields
 * that the library does not know become zero. ELIR_ERROR_USAGE. */
ELIR_API elir_status elir_describe(const elir_restorer* restorer, elir_description* description);

/* The size of the result for an input of `width` x `height`. ELIR_ERROR_USAGE; _IMAGE if a side of
 * the result would have more than 2^31 - 1 pixels. */
ELIR_API elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                                      int32_t* output_width, int32_t* output_height);

/* Restores one image of any size and returns when it is done.
 *
 *   input   its pixels are only read.
 *   output  of the size that elir_output_size gives, in any format; its pixels are written. The two
 *           must not overlap in memory.
 *
 * ELIR_ERROR_USAGE (a model of aligned faces would run in tiles), _IMAGE, _UNAVAILABLE, _MEMORY. */
ELIR_API elir_status elir_restore(elir_restorer* restorer, const elir_image* input,
                                  const elir_image* output);

/* Restores `count` images, whose sizes may differ, and returns when all are done. Up to
 * `concurrency` of them are restored concurrently: by threads that live as long as the call, and
 * the caller's. The pixels are the same as from elir_restore.
 *
 *   inputs, outputs  arrays of `count` images as for elir_restore; outputs[i] receives inputs[i].
 *                    No output may overlap another image.
 *
 * If an image or an argument is refused, nothing is restored. If restoring an image fails, the
 * others are restored all the same; the call then returns the status of the first image in the
 * array that failed, and elir_last_error() begins with its index, such as "image 3: ". The pixels
 * of outputs whose image failed are undefined, and only they.
 *
 * The statuses of elir_restore. ELIR_OK if `count` is 0. */
ELIR_API elir_status elir_restore_batch(elir_restorer* restorer, const elir_image* inputs,
                                        const elir_image* outputs, size_t count);

/* Like elir_restore, on a thread of the library; returns at once. The structs are copied. The
 * pixels must remain valid and unchanged until `done` is called. Images are started in the order
 * in which they were passed, and finish in that order if concurrency is 1.
 *
 * ELIR_ERROR_BUSY if `queue` images are already waiting or elir_destroy has begun: a camera drops
 * the frame. Invalid arguments are reported at once (ELIR_ERROR_USAGE, _IMAGE, _UNAVAILABLE) and
 * `done` is not called then; what goes wrong later is reported to `done`. */
ELIR_API elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                                        const elir_image* output, elir_done_callback done,
                                        void* user);

/* Returns when every image accepted before the call is done and its callback has returned.
 * ELIR_ERROR_USAGE if called from a callback of this restorer. */
ELIR_API elir_status elir_wait(elir_restorer* restorer);

/* Runs the bare network once: no enlarging, resizing or rounding.
 *
 *   input   elir_description.input.bytes bytes of that tensor, contiguous, in host memory.
 *   output  elir_description.output.bytes bytes, written.
 *
 * ELIR_ERROR_USAGE if a size is wrong, _UNAVAILABLE. */
ELIR_API elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes,
                              void* output, size_t output_bytes);

#ifdef __cplusplus
}
#endif

#endif /* ELIR_ELIR_H_ */
