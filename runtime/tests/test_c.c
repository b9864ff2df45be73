/* The API from C99: every function once, with invalid arguments. */
#include <elir/elir.h>
#include <stdio.h>
#include <string.h>

#define EXPECT(condition)                                    \
  do {                                                       \
    if (!(condition)) {                                      \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      return 1;                                              \
    }                                                        \
  } while (0)

static void done(void* user, elir_status status, const char* message) {
  (void)user;
  (void)status;
  (void)message;
}

int main(void) {
  elir_restorer* restorer = NULL;
  elir_params params = elir_default_params();
  elir_description description;
  elir_image image = {.data = NULL, .width = 1, .height = 1};
  int32_t width = 0;
  int32_t height = 0;
  unsigned char bytes[3] = {0};
  size_t count = 0;
  char version[32];

  (void)snprintf(version, sizeof version, "%d.%d.%d", ELIR_VERSION_MAJOR, ELIR_VERSION_MINOR,
                 ELIR_VERSION_PATCH);
  EXPECT(strcmp(elir_version(), version) == 0);
  EXPECT(elir_backends() != NULL);
  EXPECT(strcmp(elir_last_error(), "") == 0);
  EXPECT(strcmp(elir_status_name(ELIR_ERROR_BUNDLE), "bundle error") == 0);
  EXPECT(params.struct_size == sizeof params);
  elir_init_params(NULL, sizeof params);

  EXPECT(elir_create(NULL, &params, &restorer) == ELIR_ERROR_USAGE);
  EXPECT(strcmp(elir_last_error(), "bundle is NULL") == 0);
  EXPECT(elir_create("/nowhere", NULL, NULL) == ELIR_ERROR_USAGE);
  EXPECT(elir_create("/nowhere", NULL, &restorer) == ELIR_ERROR_BUNDLE);
  EXPECT(restorer == NULL);
  EXPECT(strncmp(elir_last_error(), "/nowhere is not the folder of a bundle", 38) == 0);
  params.threads = -1;
  EXPECT(elir_create("/nowhere", &params, &restorer) == ELIR_ERROR_USAGE);
  EXPECT(strcmp(elir_last_error(), "elir_params.threads is -1, expected 0 to 65536") == 0);

  description.struct_size = sizeof description;
  EXPECT(elir_describe(NULL, &description) == ELIR_ERROR_USAGE);
  EXPECT(elir_output_size(NULL, 1, 1, &width, &height) == ELIR_ERROR_USAGE);
  EXPECT(elir_restore(NULL, &image, &image) == ELIR_ERROR_USAGE);
  EXPECT(elir_restore_batch(NULL, &image, &image, 1) == ELIR_ERROR_USAGE);
  EXPECT(elir_restore_async(NULL, &image, &image, done, NULL) == ELIR_ERROR_USAGE);
  EXPECT(elir_wait(NULL) == ELIR_ERROR_USAGE);
  EXPECT(elir_detect(NULL, &image, NULL, 0, &count) == ELIR_ERROR_USAGE);
  EXPECT(elir_restore_photo(NULL, NULL, &image, &image, NULL, 0, NULL) == ELIR_ERROR_USAGE);
  EXPECT(elir_restore_photo_async(NULL, NULL, &image, &image, NULL, 0, NULL, done, NULL) ==
         ELIR_ERROR_USAGE);
  EXPECT(elir_run(NULL, bytes, sizeof bytes, bytes, sizeof bytes) == ELIR_ERROR_USAGE);
  elir_destroy(NULL);
  return 0;
}
