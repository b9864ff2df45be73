/* elir: image restoration from C and C++. This header is the library's manual.
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
 * elir restores degraded photographs with a neural network. The network comes in a bundle: a folder
 * written by elir-export, with the model and everything needed to run it.
 *
 * SIZES. The network works on images of one or several fixed sizes (elir_description.shapes) and
 * does not change them. An input is first enlarged by the bundle's factor (`upscale`, 1 for most
 * tasks). If the enlarged image has one of these sizes, it is restored in one run. If not, it is
 * either resized to the first of them and the result resized back, or restored in overlapping tiles
 * that are blended, in the size that needs the least computation (see elir_fit). An image smaller
 * than a tile is continued by mirroring, and the result is cut.
 *
 * BATCHES. If the bundle was exported for batches, up to `batch` images or tiles are restored in
 * one run. Tiles of an image, consecutive images of elir_restore_batch and images that wait in the
 * queue of elir_restore_async fill a batch, if they need one run each in the same size. Nothing
 * waits for a batch to be full, and the pixels are the same as one by one: a CPU backend that
 * cannot do that runs the images one by one (OpenVINO, and ONNX Runtime but in float32 on x86-64).
 * On a GPU the last bits may depend on the batch.
 *
 * NOISE. The network adds noise to its first estimate. It is either a constant of the network, or
 * computed for each image as a function of a seed and of the position in the image, so that
 * overlapping tiles have the same noise; its seed and standard deviation can then be chosen
 * (elir_params.seed and .sigma_s). The same image and noise give the same result.
 *
 * PHOTOGRAPHS. With a bundle for aligned faces that contains a face detector (elir-export
 * --detector), elir_restore_photo finds the faces of a whole photograph, aligns each to a square,
 * restores it and puts back what the network changed, under a soft mask. Outside the masks nothing
 * changes. elir_detect only finds faces, and faces may come from a detector of your own. Images
 * must be upright.
 *
 * COORDINATES of faces are pixels of the input image, x to the right and y down, whole numbers at
 * the centres of pixels: (0, 0) is the centre of the top left pixel, and an image of width w
 * reaches from -0.5 to w - 0.5. The library rounds them to multiples of 1/64 pixel, half to even,
 * before anything is decided by them; those it returns are such multiples.
 *
 * OWNERSHIP. Every buffer belongs to whoever allocated it. The library keeps no pointer to an image
 * after the call or, for functions that end in _async, after the callback. elir_create copies the
 * strings in elir_params. Strings that the library returns are never freed by the caller; how long
 * each is valid is documented with it.
 *
 * THREADS. A process may have any number of restorers; they are independent of each other. All
 * functions except elir_destroy may be called on one restorer from several threads at the same
 * time: up to `concurrency` images are restored concurrently, further calls wait. Faces are
 * searched in one image at a time; the faces of a photograph are restored like images. A single
 * call may itself use several processor cores (see `threads`). The calling thread's current CUDA
 * device is the same after a call as before it.
 *
 * CUDA. With the backends for TensorRT and TensorRT-RTX, images may be in the memory of the
 * restorer's GPU (ELIR_MEMORY_CUDA), inputs and outputs independently of each other: nothing of an
 * input or output there is copied to or from the host. Such an image must have one of `shapes`, its
 * size without padding, be ELIR_RGB8 with rows stored top down, and belong to a bundle that takes
 * and gives bytes; an input there cannot be enlarged, nor `strength` be less than 1. elir_detect,
 * elir_restore_photo and elir_run take host memory only. elir_image.stream orders access to the
 * pixels.
 *
 * FORKS. A child process created by fork() cannot use its parent's restorers: every function
 * returns ELIR_ERROR_USAGE at once, and elir_destroy does nothing. Create restorers after the fork.
 * If the parent has loaded ONNX Runtime, the child must end with _exit(): at exit() ONNX Runtime
 * waits for threads that do not exist in the child.
 *
 * ERRORS. A function that can fail returns an elir_status; elir_last_error() then describes the
 * error in one line: the value that is wrong, the value expected, and what to do. The comment on
 * each function lists the statuses it may return. No C++ exception leaves the library. A failed
 * call has no effect, except that the pixels of its output images are undefined.
 *
 * MEMORY. A restorer has working memory for each of its `concurrency` sessions. It grows with the
 * first image of a size, and with the first batch of a number of images, and is reused: restoring
 * another one allocates nothing in this library. (The first call of a function that ends in
 * _async creates threads and a queue, and elir_restore_batch creates threads in every call.)
 * Detecting faces and restoring a photograph allocate working memory in every call; the first
 * search for faces loads the detector. What the backend allocates is up to it.
 *
 * ABI. elir_params, elir_photo_params and elir_description begin with their size and may grow at
 * their end in later versions. A program and a library of different versions use the fields that
 * both know; setting a field that the library is too old to know is an error. elir_image,
 * elir_shape, elir_tensor and elir_face never change.
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

/* A bundle loaded on a backend. */
typedef struct elir_restorer elir_restorer;

typedef enum elir_status {
  ELIR_OK = 0,
  ELIR_ERROR_USAGE = 1,       /* an argument is wrong, or does not fit the bundle */
  ELIR_ERROR_BUNDLE = 2,      /* the bundle is damaged, incomplete or of another format, or contains
                                 nothing that this library can run */
  ELIR_ERROR_IMAGE = 3,       /* an image has the wrong size, stride, format or memory */
  ELIR_ERROR_UNAVAILABLE = 4, /* a backend or device is missing, failed, or lacks a feature */
  ELIR_ERROR_BUSY = 5,        /* the queue of images that wait is full: drop the frame, or wait */
  ELIR_ERROR_MEMORY = 6,      /* out of memory */
  ELIR_ERROR_INTERNAL = 7     /* a bug in this library */
} elir_status;

/* The order of the three bytes of a pixel. */
typedef enum elir_format { ELIR_RGB8 = 0, ELIR_BGR8 = 1 } elir_format;

/* Where the pixels of an image are. */
typedef enum elir_memory {
  ELIR_MEMORY_HOST = 0,
  ELIR_MEMORY_CUDA = 1 /* on the restorer's GPU (elir_params.device), device or managed memory: see
                          CUDA above. A wrong size, format, stride, address or stream gives
                          ELIR_ERROR_IMAGE, what needs the host ELIR_ERROR_UNAVAILABLE */
} elir_memory;

/* What happens to an image that does not have the network's size. */
typedef enum elir_fit {
  ELIR_FIT_DEFAULT = 0, /* resize for models of aligned faces, tile for all others */
  ELIR_FIT_RESIZE = 1,  /* stretch it to the network's size, and the result back; does not keep
                           proportions */
  ELIR_FIT_TILE = 2     /* overlapping, blended tiles: keeps detail; time grows with the area */
} elir_fit;

typedef enum elir_mode {
  ELIR_MODE_LATENCY = 0,   /* each image as soon as possible */
  ELIR_MODE_THROUGHPUT = 1 /* most images per second: several at once, each taking longer */
} elir_mode;

typedef enum elir_log_level { ELIR_LOG_INFO = 0, ELIR_LOG_WARNING = 1 } elir_log_level;

/* Receives log messages. `message` is one line of UTF-8 without a newline, valid during the call
 * only. May be called until the restorer is destroyed, on the thread that called the library or,
 * for functions that end in _async, on a thread of the library. Must not throw. */
typedef void (*elir_log_callback)(void* user, elir_log_level level, const char* message);

/* Called once for every image or photograph that elir_restore_async or elir_restore_photo_async
 * accepted, on a thread of the library.
 * `message` describes the error in one line, or is empty if there was none; it is valid during the
 * call only. Must not throw. May call any function on its restorer except elir_wait and
 * elir_destroy. */
typedef void (*elir_done_callback)(void* user, elir_status status, const char* message);

/* Options for elir_create. Start from elir_default_params(). */
typedef struct elir_params {
  size_t struct_size;    /* set by elir_default_params and elir_init_params */
  const char* backend;   /* one of elir_backends(); NULL or "auto": the fastest that the bundle and
                            this machine support */
  const char* precision; /* "fp32", "fp16", "bf16", "int8" or "w8"; NULL: the fastest that the
                            bundle allows by default. If this or `backend` is not named, each
                            candidate is checked first, and one that fails is skipped with a warning
                            to `log`. If both are named, there is no fallback */
  elir_fit fit;
  int force;   /* nonzero: allow tiles for a model of aligned faces, whose results will be poor */
  int threads; /* CPU threads per image; 0: the backend decides */
  int device;  /* index of the GPU, from 0 */
  elir_mode mode;
  int skip_accuracy_check; /* nonzero: do not restore the bundle's reference image first. The check
                              costs one run. It detects missing memory or libraries, and processors
                              that compute wrong results. If both backend and precision are named,
                              only reduced precisions are checked */
  int queue;             /* images and photographs that may wait after functions that end in _async,
                            1 to 1024; at least as many as the largest batch, for full batches */
  elir_log_callback log; /* NULL: no log. Used as long as the restorer exists */
  void* log_user;        /* passed to `log` */
  const char* cache; /* UTF-8 path of the folder that caches compiled models; "": no cache; NULL:
                        $ELIR_CACHE, or elir-deploy in $XDG_CACHE_HOME or ~/.cache, shared with the
                        Python runtime. Compiled models may take $ELIR_CACHE_LIMIT bytes (such as
                        500M; default 1G; 0: no cache); the least recently used are removed first.
                        The files are executable code: protect the folder like a program. If it
                        cannot be written, `log` gets a warning and nothing fails */
  double sigma_s;    /* standard deviation of the noise, at least 0; -1: the bundle's */
  int64_t seed;      /* of the noise, 0 to 2^32 - 1; -1: the bundle's. This and `sigma_s` can only
                        be set if the bundle was exported with --noise field */
  int32_t tile_overlap; /* pixels over which neighbouring tiles are blended, 0 to half the smallest
                           side of a tile; -1: an eighth of its side. More takes longer */
  double strength;   /* how much of the restoration is kept, from 0 to 1, in steps of 1/256. 0 gives
                        the input, enlarged by `upscale`, and no network runs. Of a photograph, faces
                        and background are mixed with the input, enlarged (bicubic); at 0 no faces
                        are searched for. Not for elir_run */
  int32_t long_side; /* longer side in pixels that images are shrunk to before faces are searched,
                        from what the detector's sides are multiples of (32) to 4096; 0: the
                        bundle's. More finds smaller faces, and takes longer */
  const char* device_name; /* one of OpenVINO's devices, such as "GPU", "GPU.1" or "NPU", for which
                              `backend` is "openvino" or "auto", and `device` 0. Face detectors stay
                              on the CPU. NULL or "": OpenVINO runs on the CPU */
} elir_params;

/* An image: 8 bits per channel, 3 channels per pixel, no padding between pixels. Fields left at
 * zero mean tightly packed RGB in host memory. */
typedef struct elir_image {
  void* data;       /* first byte of the top row; not written to if the image is an input */
  int32_t width;    /* in pixels, at least 1 */
  int32_t height;   /* in pixels, at least 1 */
  ptrdiff_t stride; /* bytes from one row to the next, at least 3 * width; negative if rows are
                       stored bottom up; 0: 3 * width */
  elir_format format;
  elir_memory memory;
  void* stream; /* for ELIR_MEMORY_CUDA, a cudaStream_t of that GPU: the pixels are accessed after
                   the work that was queued in it before the call, and before the call returns (or
                   the callback of elir_restore_async is called), so that any work queued later sees
                   the result. NULL: the legacy default stream. It must not be captured as a graph.
                   Must be NULL for ELIR_MEMORY_HOST */
} elir_image;

/* Number and size of the images that the network restores in one run. */
typedef struct elir_shape {
  int32_t batch;  /* largest number of images; fewer are possible */
  int32_t height; /* of each image after enlarging, in pixels */
  int32_t width;
} elir_shape;

/* A face in an image. For coordinates see above. The five landmarks are x and y of the left eye,
 * the right eye, the tip of the nose, and the left and the right corner of the mouth; left and
 * right are those of the image. */
typedef struct elir_face {
  double box[4]; /* left, top, right and bottom edge; may reach beyond the image */
  double landmarks[5][2];
  double score;       /* the detector's confidence, 0 to 1 */
  int32_t restored;   /* nonzero: the face was restored and pasted back into the image */
  const char* reason; /* why it was not restored, in one line; empty if it was, or if nobody has
                         tried. Valid as long as the restorer */
} elir_face;

/* The most faces that are found in an image: those of the highest scores. */
#define ELIR_MAX_FACES 1024

/* Which faces of a photograph are restored. Those whose eyes are closer than 5 pixels never are. */
typedef enum elir_faces {
  ELIR_FACES_AUTO = 0, /* as ELIR_FACES_ALIGNED, if there is exactly one face, each of whose
                          landmarks lies within 5 % of the side from where an aligned face has
                          it, and the sides differ by at most 5 %; else all */
  ELIR_FACES_ALL = 1,
  ELIR_FACES_LARGEST = 2, /* the one with the largest box */
  ELIR_FACES_CENTRE = 3,  /* the one whose box's centre is closest to the image's */
  ELIR_FACES_ALIGNED = 4, /* the image is one aligned face: it is restored as one square, and no
                             faces are searched for */
  ELIR_FACES_LIST = 5     /* those of elir_photo_params.face_list; no faces are searched for */
} elir_faces;

/* Options for elir_restore_photo. Zeros except for struct_size are the defaults:
 *     elir_photo_params params = {.struct_size = sizeof params}; */
typedef struct elir_photo_params {
  size_t struct_size; /* set this to sizeof(elir_photo_params) */
  elir_faces faces;
  const elir_face* face_list; /* for ELIR_FACES_LIST: faces of another detector. Their `score` is
                                 copied, `restored` and `reason` are not read */
  size_t face_count;
  const elir_image* background; /* what the output shows around the faces, such as the image
                                   restored by another restorer. Resized (bicubic) if it does not
                                   have the output's size; its pixels may be those of the output.
                                   It is mixed with the input by the restorer's strength, too: let
                                   the other restorer have strength 1.
                                   NULL: the input, enlarged (bicubic). Not used where the image is
                                   one aligned face */
} elir_photo_params;

typedef enum elir_dtype { ELIR_UINT8 = 0, ELIR_FLOAT32 = 1 } elir_dtype;
typedef enum elir_layout { ELIR_NHWC = 0, ELIR_NCHW = 1 } elir_layout;

/* The network's input or output, for elir_run: RGB images, with values from 0 to 255 as ELIR_UINT8
 * or 0 to 1 as ELIR_FLOAT32. Height and width are those of the shape, rounded up to multiples that
 * the network needs. */
typedef struct elir_tensor {
  const char* name; /* valid as long as the restorer */
  elir_dtype dtype;
  elir_layout layout;
  int32_t shape[4]; /* ELIR_NHWC: batch, height, width, 3. ELIR_NCHW: batch, 3, height, width */
  size_t bytes;     /* of the whole tensor */
} elir_tensor;

/* Properties of a restorer. Pointers are valid as long as the restorer. */
typedef struct elir_description {
  size_t struct_size;       /* set this to sizeof(elir_description) before elir_describe */
  const char* task;         /* such as "bsr" */
  const char* backend;      /* such as "openvino" */
  const char* precision;    /* as in elir_params */
  const elir_shape* shapes; /* shapes that the network supports */
  int32_t shape_count;      /* at least 1 */
  int32_t largest_batch;    /* of all shapes */
  int32_t upscale;          /* factor from the width and height of an input to its output's */
  elir_fit fit;             /* ELIR_FIT_RESIZE or ELIR_FIT_TILE */
  int32_t aligned_faces;    /* nonzero: trained on crops of aligned faces only */
  int32_t face_detector;    /* nonzero: the bundle contains a face detector */
  int32_t random;           /* nonzero: the weights are random, for measuring speed only */
  int32_t concurrency;      /* images restored concurrently */
  elir_tensor input;        /* of elir_run: a full batch of the first of `shapes` */
  elir_tensor output;
} elir_description;

/* Version of the library, such as "0.1.0". Valid forever. */
ELIR_API const char* elir_version(void);

/* Names of the backends built into this library, separated by ", "; empty if out of memory. Valid
 * forever. Whether a backend works on this machine is only known once it is used. */
ELIR_API const char* elir_backends(void);

/* The error of the last call on this thread that did not return ELIR_OK, in one line of UTF-8;
 * empty if there was none. Valid until the next call on this thread. Calls that succeed do not
 * change it. */
ELIR_API const char* elir_last_error(void);

/* Name of a status, such as "usage error". Valid forever. */
ELIR_API const char* elir_status_name(elir_status status);

/* Sets the fields of `params` to their defaults: automatic backend and precision, latency mode, a
 * queue of 2, no log, the user's cache folder, a strength of 1. `struct_size` must be the caller's
 * sizeof(elir_params). Fields that the library does not know become zero. */
ELIR_API void elir_init_params(elir_params* params, size_t struct_size);

/* Returns the defaults. Inline, so that it uses the struct of the caller's header. */
static inline elir_params elir_default_params(void) {
  elir_params params;
  elir_init_params(&params, sizeof params);
  return params;
}

/* Loads a bundle: checks its manifest and the SHA-256 of the files it uses, opens the backend, and
 * restores the bundle's reference image as a check (see `skip_accuracy_check`). Takes from a tenth
 * of a second to minutes, depending on model and backend.
 *
 *   bundle    path of the folder, UTF-8.
 *   params    NULL for the defaults; read during the call only.
 *   restorer  receives the new restorer, to be passed to elir_destroy; NULL if the call fails.
 *
 * Returns ELIR_ERROR_USAGE, _BUNDLE, _UNAVAILABLE or _MEMORY on failure. If a named backend or
 * precision cannot be used, the call fails; there is no silent fallback. Hashes detect damage, not
 * malice: load bundles only from sources you trust. */
ELIR_API elir_status elir_create(const char* bundle, const elir_params* params,
                                 elir_restorer** restorer);

/* Stops accepting images, waits for those that were accepted and their callbacks, and frees the
 * restorer. NULL is allowed. No other thread may use the restorer during or after this call. Its
 * callbacks may; functions that end in _async then return ELIR_ERROR_BUSY. */
ELIR_API void elir_destroy(elir_restorer* restorer);

/* Fills `description`, whose struct_size must be set. Fields that the library does not know become
 * zero. Returns ELIR_ERROR_USAGE on failure. */
ELIR_API elir_status elir_describe(const elir_restorer* restorer, elir_description* description);

/* Computes the size of the output for an input of `width` x `height` pixels. Returns
 * ELIR_ERROR_USAGE, or _IMAGE if a side is below 1 or the output would exceed 2^31 - 1 pixels. */
ELIR_API elir_status elir_output_size(const elir_restorer* restorer, int32_t width, int32_t height,
                                      int32_t* output_width, int32_t* output_height);

/* Restores one image of any size and returns when it is done.
 *
 *   input   the image to restore; its pixels are only read.
 *   output  receives the result. Must have the size computed by elir_output_size; its format and
 *           stride may differ from the input's. Must not overlap the input in memory.
 *
 * Returns ELIR_ERROR_USAGE (also if a model of aligned faces would run in tiles), _IMAGE, _BUNDLE
 * (a file needed for a new size or batch has changed), _UNAVAILABLE or _MEMORY on failure. */
ELIR_API elir_status elir_restore(elir_restorer* restorer, const elir_image* input,
                                  const elir_image* output);

/* Restores `count` images, whose sizes may differ, and returns when all are done. Up to
 * `concurrency` batches of them are restored concurrently, on the calling thread and on threads
 * that live as long as the call. The pixels are the same as from elir_restore.
 *
 *   inputs, outputs  arrays of `count` images as for elir_restore; outputs[i] receives inputs[i].
 *                    No output may overlap another image.
 *
 * All arguments and images are checked first; if one is invalid, nothing is restored. If restoring
 * an image fails, the others are still restored; the call then returns the status of the first
 * image in the array that failed, and elir_last_error() begins with its index, such as "image 3: ".
 * Only the outputs of images that failed are undefined.
 *
 * Returns the statuses of elir_restore; ELIR_OK if `count` is 0. */
ELIR_API elir_status elir_restore_batch(elir_restorer* restorer, const elir_image* inputs,
                                        const elir_image* outputs, size_t count);

/* Queues one image for restoration on a thread of the library and returns at once. The structs are
 * copied. The pixels must remain valid and unchanged until `done` is called. Images are started in
 * the order of the calls, with as many of those that wait as fit into a batch, and finish in that
 * order if concurrency is 1.
 *
 * Returns ELIR_ERROR_BUSY if `queue` images are already waiting or elir_destroy has begun: a camera
 * drops the frame. Returns ELIR_ERROR_USAGE, _IMAGE, _UNAVAILABLE or _MEMORY if the arguments are
 * invalid or the threads cannot be created. `done` is called only if the call returns ELIR_OK, and
 * receives any later error. */
ELIR_API elir_status elir_restore_async(elir_restorer* restorer, const elir_image* input,
                                        const elir_image* output, elir_done_callback done,
                                        void* user);

/* Waits until every image accepted before the call is done and its callback has returned. Returns
 * ELIR_ERROR_USAGE if called from a callback of this restorer. */
ELIR_API elir_status elir_wait(elir_restorer* restorer);

/* Finds the faces in an image of any size, with the bundle's detector. It runs in float32 on the
 * restorer's backend or, if that cannot run it, on another, with a warning to `log`. TensorRT needs
 * an engine in the bundle, and that the image fits into one of the engine's sizes.
 *
 *   image     its pixels are only read.
 *   faces     receives the faces, those of the highest scores first, `capacity` at most; NULL if
 *             `capacity` is 0.
 *   capacity  ELIR_MAX_FACES is always enough.
 *   count     receives the number of faces in the image, which may exceed `capacity`.
 *
 * Returns ELIR_ERROR_USAGE, _IMAGE, _BUNDLE (there is no detector, or it computes what no detector
 * should), _UNAVAILABLE or _MEMORY on failure. */
ELIR_API elir_status elir_detect(elir_restorer* restorer, const elir_image* image, elir_face* faces,
                                 size_t capacity, size_t* count);

/* Restores the faces of a photograph of any size. The bundle must be for aligned faces, contain a
 * face detector and restore squares that it does not enlarge.
 *
 *   params    NULL for the defaults; read during the call only.
 *   input     its pixels are only read.
 *   output    receives the result. Must be 1, 2 or 4 times as wide and high as the input; its
 *             format and stride may differ from the input's. Must not overlap the input in memory.
 *   faces     receives all faces that were detected or listed, in pixels of the input, with the
 *             reasons why some were left alone, `capacity` at most; may be
 *             elir_photo_params.face_list. NULL if `capacity` is 0.
 *   count     receives their number; NULL if it is not needed.
 *
 * An image without a face is not an error: the output then is the input, or the background.
 *
 * Returns the statuses of elir_detect. */
ELIR_API elir_status elir_restore_photo(elir_restorer* restorer, const elir_photo_params* params,
                                        const elir_image* input, const elir_image* output,
                                        elir_face* faces, size_t capacity, size_t* count);

/* Queues one photograph for elir_restore_photo and returns at once; to elir_restore_async as that
 * function is to elir_restore. The structs are copied, with the faces of `face_list`. The pixels of
 * all images, `faces` and `count` must remain valid and unchanged until `done` is called, and are
 * filled before. Photographs and images share the queue; a photograph is started alone.
 *
 * Returns the statuses of elir_restore_async, or _BUNDLE (there is no detector). */
ELIR_API elir_status elir_restore_photo_async(elir_restorer* restorer,
                                              const elir_photo_params* params,
                                              const elir_image* input, const elir_image* output,
                                              elir_face* faces, size_t capacity, size_t* count,
                                              elir_done_callback done, void* user);

/* Runs the network once on tensors, without enlarging, resizing or rounding: a full batch of the
 * first shape, each image with the noise that its top left corner has.
 *
 *   input   the tensor elir_description.input: its `bytes` bytes, contiguous, in host memory.
 *   output  receives the tensor elir_description.output, in the same form.
 *
 * Returns ELIR_ERROR_USAGE (also if a size is wrong), _UNAVAILABLE or _MEMORY on failure. */
ELIR_API elir_status elir_run(elir_restorer* restorer, const void* input, size_t input_bytes,
                              void* output, size_t output_bytes);

#ifdef __cplusplus
}
#endif

#endif /* ELIR_ELIR_H_ */
