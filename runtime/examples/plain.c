/* The library from C: restores one picture in the PPM format, which needs no library.
 *
 *     plain BUNDLE INPUT.ppm OUTPUT.ppm
 */
#include <elir/elir.h>
#include <stdio.h>
#include <stdlib.h>

/* Reads the pixels of an 8-bit binary PPM, to be freed by the caller; NULL if it is not one. */
static unsigned char* read_ppm(const char* name, int* width, int* height) {
  FILE* file = fopen(name, "rb");
  unsigned char* pixels = NULL;
  size_t size = 0;
  if (file == NULL) return NULL;
  if (fscanf(file, "P6 %d %d 255", width, height) == 2 && fgetc(file) != EOF && *width > 0 &&
      *height > 0 && *width < 32768 && *height < 32768) {
    size = 3 * (size_t)*width * (size_t)*height;
    pixels = malloc(size);
  }
  if (pixels != NULL && fread(pixels, 1, size, file) != size) {
    free(pixels);
    pixels = NULL;
  }
  (void)fclose(file);
  return pixels;
}

static int write_ppm(const char* name, const unsigned char* pixels, int width, int height) {
  const size_t size = 3 * (size_t)width * (size_t)height;
  FILE* file = fopen(name, "wb");
  int good = 0;
  if (file == NULL) return 0;
  good =
      fprintf(file, "P6\n%d %d\n255\n", width, height) > 0 && fwrite(pixels, 1, size, file) == size;
  return fclose(file) == 0 && good;
}

/* Prints the backend and precision, and warnings. */
static void log_line(void* user, elir_log_level level, const char* message) {
  (void)user;
  fprintf(stderr, "%s%s\n", level == ELIR_LOG_WARNING ? "warning: " : "", message);
}

int main(int argc, char** argv) {
  elir_params params = elir_default_params();
  elir_restorer* restorer = NULL;
  elir_image input = {.data = NULL};
  elir_image output = {.data = NULL};
  int status = 2;

  if (argc != 4) {
    fprintf(stderr, "usage: plain BUNDLE INPUT.ppm OUTPUT.ppm\n");
    return 2;
  }
  input.data = read_ppm(argv[2], &input.width, &input.height);
  if (input.data == NULL) {
    fprintf(stderr, "%s is not an 8-bit binary PPM\n", argv[2]);
    return 2;
  }
  params.log = log_line;
  if (elir_create(argv[1], &params, &restorer) != ELIR_OK ||
      elir_output_size(restorer, input.width, input.height, &output.width, &output.height) !=
          ELIR_OK) {
    fprintf(stderr, "%s\n", elir_last_error());
    goto done;
  }
  output.data = malloc(3 * (size_t)output.width * (size_t)output.height);
  if (output.data == NULL) {
    fprintf(stderr, "out of memory\n");
    goto done;
  }
  if (elir_restore(restorer, &input, &output) != ELIR_OK) {
    fprintf(stderr, "%s\n", elir_last_error());
    goto done;
  }
  if (!write_ppm(argv[3], output.data, output.width, output.height)) {
    fprintf(stderr, "%s cannot be written\n", argv[3]);
    goto done;
  }
  status = 0;

done:
  elir_destroy(restorer);
  free(output.data);
  free(input.data);
  return status;
}
