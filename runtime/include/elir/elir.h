/* elir: restores images with an ELIR bundle. This header is the manual of the library.
 *
 *     elir_restorer *restorer = NULL;
 *     if (elir_create("bsr.bundle", NULL, &restorer) != ELIR_OK) {
 *         fprintf(stderr, "%s\n", elir_last_error());
 *         return 1;
 *     }
 *     elir_image in = {pixels, width, height, 3 * width, ELIR_RGB8};
 *     elir_image out = {result, 4 * width, 4 * height, 12 * width, ELIR_RGB8};
 *     if (elir_restore(restorer, &in, &out) != ELIR_OK) fprintf(stderr, "%s\n", elir_last_error());
 *     elir_destroy(restorer);
 *
 * A bundle is a folder made by elir-export: one network and everything a runtime must know about
 * it. The network takes a square picture of `image_size` pixels and gives one of the same size.
 * Before it, an image is enlarged by the task's factor (`upscale`); an image that then has another
 * size is resized to the square and back, or cut into overlapping tiles that are blended.
 *
 * OWNERSHIP. Every buffer belongs to whoever allocated it. The library keeps no pointer to an
 * image after the call that was given it; with elir_restore_async, not after the callback was
 * called. Strings in elir_params are copied by elir_create. Strings that the library returns are
 * its own and are never freed by the caller; how long they last stands beside each.
 *
 * THREADS. Any number of restorers may live at once, and different ones never wait for each other.
 * All functions on one restorer but elir_destroy may be called from several threads at a time: as
 * many images as `at_once` says are restored together, the others wait for their turn. A call may
 * use several processor cores by itself (see `threads`). After a call, the thread's current CUDA
 * device is what it was before.
 *
 * FORKS. A child process made by fork() has none of the library's threads and cannot use a restorer
 * of its parent: every function then gives ELIR_ERROR_USAGE at once, and elir_destroy does nothing.
 * Create restorers after the fork. A child of a process that has loaded OpenVINO or ONNX Runtime
 * must end with _exit(): exit() would let these libraries wait for threads that are not there.
 *
 * ERRORS. A function that can fail returns an elir_status; elir_last_error() then says in one line
 * what is wrong, with the value seen and the value wanted, and what to do. No C++ exception leaves
 * the library. A failed call changes nothing but the output image, whose pixels are then undefined.
 *
 * MEMORY. A restorer has working memory for each of the `at_once` images, made when an image is
 * restored in it and kept for the next. Where all of them have seen a size, restoring another image
 * of that size allocates nothing in this library; the first elir_restore_async makes its threads
 * and queue. What the backend allocates in its own run is its own affair.
 *
 * STRUCTS. elir_params and elir_description may grow at their end in later versions, and carry
 * their size for that reason: a program and a library of different versions use what both know. A
 * field that a program sets and its library is too old to know is an error. The other structs stay.
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

/* Of this header. elir_version() tells that of the library. */
#define ELIR_VERSION_MAJOR 0
#define ELIR_VERSION_MINOR 1
#define ELIR_VERSION_PATCH 0

/* One bundle loaded on one backend. */
typedef struct elir_restorer elir_restorer;

typedef enum elir_status {
  ELIR_OK = 0,
  ELIR_ERROR_USAGE = 1,  /* an argument is wrong, or does not fit the bundle */
  ELIR_ERROR_BUNDLE = 2, /* the bundle is damaged, incomplete, newer, or holds nothing to run */
  ELIR_ERROR_IMAGE = 3,  /* an image has the wrong size, stride or format */
  ELIR_ERROR_UNAVAILABLE = 4, /* a backend or device is not there, or failed */
  ELIR_ERROR_BUSY = 5,        /* the queue of elir_restore_async is full: drop the frame, or wait */
  ELIR_ERROR_MEMORY = 6,      /* out of memory */
  ELIR_ERROR_INTERNAL = 7     /* a bug in this library */
} elir_status;

/* The order of the three bytes of a pixel. */
typedef enum elir_format { ELIR_RGB8 = 0, ELIR_BGR8 = 1 } elir_format;

/* What becomes of an image that has not the model's size. */
typedef enum elir_fit {
  ELIR_FIT_DEFAULT = 0, /* resize for models of aligned faces, tile for all others */
  ELIR_FIT_RESIZE = 1,  /* to the model's square, proportions not kept, and the result back */
  ELIR_FIT_TILE = 2     /* overlapping tiles, blended; detail is kept, time grows with the area */
} elir_fit;

typedef enum elir_mode {
  ELIR_MODE_LATENCY = 0,   /* one image as fast as can be */
  ELIR_MODE_THROUGHPUT = 1 /* the most images in a second, several at once; each takes longer */
} elir_mode;

typedef enum elir_log_level { ELIR_LOG_INFO = 0, ELIR_LOG_WARNING = 1 } elir_log_level;

/* `message` is one line of UTF-8 without a newline, valid during the call only. Called until the
 * restorer is destroyed, on the thread of the function that has something to say, or on one of the
 * library's for elir_restore_async; it must not throw. */
typedef void (*elir_log_callback)(void* user, elir_log_level level, const char* message);

/* Called once for each image accepted by elir_restore_async, on a thread of the library.
 * `message` is the error in one line, empty if there is none, valid during the call only. It must
 * not throw. It may call every function but elir_wait and elir_destroy on its restorer. */
typedef void (*elir_done_callback)(void* user, elir_status status, const char* message);

/* How to load a bundle. Get the defaults from elir_default_params() and change some of them. */
typedef struct elir_params {
  size_t struct_size;    /* set by elir_default_params and elir_init_params */
  const char* backend;   /* a name of elir_backends(); NULL or "auto": the fastest that bundle and
                            machine allow */
  const char* precision; /* "fp32", "fp16", "bf16" or "int8"; NULL: the backend's best that passed
                            the bundle's verification */
  elir_fit fit;
  int force;   /* nonzero lets a model of aligned faces run in tiles, where it makes no sense */
  int threads; /* processor threads of one run; 0 leaves it to the backend */
  int device;  /* number of the GPU, from 0 */
  elir_mode mode;
  int skip_trial; /* nonzero: do not try a reduced precision on the bundle's own picture first. The
                     trial takes one run and finds processors that compute it wrongly */
  int queue;      /* images that may wait in elir_restore_async, 1 to 1024 */
  elir_log_callback log; /* NULL: nothing is logged. As long as the restorer lives */
  void* log_user;        /* handed to `log` */
  const char* cache; /* folder where models that took long to compile are kept for the next start,
                        UTF-8; NULL: $ELIR_CACHE, or elir-deploy in $XDG_CACHE_HOME or ~/.cache,
                        which the Python runtime uses, too; "": none is kept. All models in it may
                        have $ELIR_CACHE_LIMIT bytes (such as 500M; default 1G, 0: none is kept),
                        and those that were not used for longest are removed. What is kept there is
                        code, so the folder deserves the protection of a program's. That it cannot
                        be written is no error but a warning to `log` */
} elir_params;

/* Pixels of an image, row by row, 8 bits a channel, 3 bytes a pixel, never padded in between. */
typedef struct elir_image {
  void* data;       /* the first byte of the top row; only read where the image is an input */
  int32_t width;    /* in pixels, at least 1 */
  int32_t height;   /* in pixels, at least 1 */
  ptrdiff_t stride; /* bytes from a row to the next, at least 3 * width; negative where the rows
                       lie bottom up; 0 means 3 * width */
  elir_format format;
} elir_image;

typedef enum elir_dtype { ELIR_UINT8 = 0, ELIR_FLOAT32 = 1 } elir_dtype;
typedef enum elir_layout { ELIR_NHWC = 0, ELIR_NCHW = 1 } elir_layout;

/* A tensor at one end of the bare model, for elir_run. One RGB image: values from 0 to 255 as
 * ELIR_UINT8, from 0 to 1 as ELIR_FLOAT32. */
typedef struct elir_tensor {
  const char* name; /* lives as long as the restorer */
  elir_dtype dtype;
  elir_layout layout; /* ELIR_NHWC: 1 x height x width x 3; ELIR_NCHW: 1 x 3 x height x width */
  int32_t shape[4];
  size_t bytes; /* of the whole tensor */
} elir_tensor;

/* What was loaded. Strings live as long as the restorer. */
typedef struct elir_description {
  size_t struct_size;    /* set by the caller to sizeof(elir_description), before elir_describe */
  const char* task;      /* such as "bsr" */
  const char* backend;   /* such as "openvino" */
  const char* precision; /* "fp32", "fp16", "bf16" or "int8" */
  int32_t image_size;    /* side of the model's square in pixels */
  int32_t upscale;       /* a result is this many times as wide and high as its input */
  elir_fit fit;          /* ELIR_FIT_RESIZE or ELIR_FIT_TILE */
  int32_t faces;         /* nonzero: trained on aligned face crops only */
  int32_t random;        /* nonzero: weights are random, good for measuring speed only */
  int32_t at_once;       /* images restored at a time */
  elir_tensor input;     /* of elir_run */
  elir_tensor output;
} elir_description;

/* The library's version, such as "0.1.0". Lives forever. */
ELIR_API const char* elir_version(void);

/* Names of the backends built into this library, separated by a comma and a space, in the order
 * they are considered; empty where memory runs out. Lives forever. Whether one can run here shows
 * when it is created. */
ELIR_API const char* elir_backends(void);

/* What went wrong in the last call on this thread that returned no ELIR_OK, in one line of UTF-8;
 * empty if none did. Lives until the next call of the library on this thread. Calls that succeed
 * leave it alone. */
ELIR_API const char* elir_last_error(void);

/* A status in words, such as "usage error". Lives forever. */
ELIR_API const char* elir_status_name(elir_status status);

/* Writes `struct_size`, which is the caller's sizeof(elir_params), and the default of every other
 * field that both sides know: automatic backend and precision, latency, a queue of 2, no log, the
 * user's cache folder. Fields that the library does not know become zero. */
ELIR_API void elir_init_params(elir_params* params, size_t struct_size);

/* The same for C and C++; inline, so that the struct is as large as in the caller's header. */
static inline elir_params elir_default_params(void) {
  elir_params params;
  elir_init_params(&params, sizeof params);
  return params;
}

/* Loads a bundle: checks its manifest and the SHA-256 of the files in use, opens the backend, and
 * unless told otherwise tries a reduced precision on the bundle's own picture. Takes from a tenth
 * of a second to minutes, by model and backend.
 *
 *   bundle    path of the folder, UTF-8.
 *   params    NULL for the defaults; read during the call only.
 *   restorer  receives the new restorer, to be given to elir_destroy; NULL if the call fails.
 *
 * ELIR_ERROR_USAGE, _BUNDLE, _UNAVAILABLE, _MEMORY. A backend or precision that is asked for by
 * name is used or is an error; there is no silent fallback. Hashes detect damage, not malice: load
 * bundles only from people you trust. */
ELIR_API elir_status elir_create(const char* bundle, const elir_params* params,
                                 elir_restorer** restorer);

/* Waits for the images of elir_restore_async that were accepted and for their callbacks, accepts no
 * more, and gives all memory back. NULL is allowed. No other call on this restorer may be in
 * progress or follow, but those that its callbacks make meanwhile: elir_restore_async then gives
 * them ELIR_ERROR_BUSY. */
ELIR_API void elir_destroy(elir_restorer* restorer);

/* Fills `description`, whose struct_size is set; of a later version's, fields that the library does
 * not know become zero. ELIR_ERROR_USAGE. */
ELIR_API elir_status elir_describe(const elir_restorer* restorer, elir_description* description);

/* The size of the result for an input of `width` x `height`. ELIR_ERROR_USAGE, _IMAGE where it
 * would be more than 2^31 - 1 pixels on a side. */
ELIR_API elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                                      int32_t* output_width, int32_t* output_height);

/* Restores one image of any size and returns when it is done.
 *
 *   input   its pixels are read only.
 *   output  of the size that elir_output_size tells, in any format; its pixels are written. The
 *           two must not overlap in memory.
 *
 * ELIR_ERROR_USAGE (a face model would run in tiles), _IMAGE, _UNAVAILABLE, _MEMORY. */
ELIR_API elir_status elir_restore(elir_restorer* restorer, const elir_image* input,
                                  const elir_image* output);

/* The same on a thread of the library; returns at once. The structs are copied; the pixels must
 * stay as they are until `done` was called. Images are begun in the order they were given, and done
 * in that order where at_once is 1.
 *
 * ELIR_ERROR_BUSY when as many images wait as `queue` allows, or elir_destroy has begun: a camera
 * drops the frame. What is wrong with the arguments is told at once (ELIR_ERROR_USAGE, _IMAGE), and
 * `done` is then not called; what goes wrong later is told to `done`. */
ELIR_API elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                                        const elir_image* output, elir_done_callback done,
                                        void* user);

/* Returns when every image accepted before the call is done and its callback has returned.
 * ELIR_ERROR_USAGE when called from a callback of this restorer. */
ELIR_API elir_status elir_wait(elir_restorer* restorer);

/* Runs the bare model once: no enlarging, resizing or rounding.
 *
 *   input   elir_description.input.bytes bytes of that tensor, contiguous.
 *   output  elir_description.output.bytes bytes, written.
 *
 * ELIR_ERROR_USAGE where a size is another, _UNAVAILABLE. */
ELIR_API elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes,
                              void* output, size_t output_bytes);

#ifdef __cplusplus
}
#endif

#endif /* ELIR_ELIR_H_ */
