/* Predictions in C and C++: one library, no Python.
 *
 *     ead_detector *detector;
 *     ead_prediction *found;
 *     if (ead_open("part.native", 0, &detector) ||
 *         ead_predict(detector, pixels, height, width, 3 * width, EAD_RGB, &found))
 *       fprintf(stderr, "%s\n", ead_message());
 *
 * `efficientad export part.ead --output part.native` writes the file. Every function
 * that returns an `ead_code` sets its last argument on EAD_OK only. */
#ifndef EFFICIENTAD_H
#define EFFICIENTAD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  EAD_OK = 0,
  EAD_BAD_ARGUMENT = 1, /* an argument has a value that it may not have */
  EAD_BAD_FILE = 2,     /* the model file is missing, damaged or of another kind */
  EAD_BAD_IMAGE = 3,    /* the image cannot be used, for example for its size */
  EAD_BAD_LIBRARY = 4,  /* the library computes wrong numbers on this processor */
  EAD_NO_MEMORY = 5
} ead_code;

/* Order of a pixel's bytes. The fourth byte is ignored; gray has one. */
typedef enum { EAD_RGB, EAD_BGR, EAD_RGBA, EAD_BGRA, EAD_GRAY } ead_channels;

typedef enum { EAD_NORMAL, EAD_UNSURE, EAD_ANOMALOUS } ead_decision;

typedef enum { EAD_COMBINED, EAD_LOCAL, EAD_GLOBAL } ead_map_name;

/* A connected group of pixels above the threshold, in pixels of the image. */
typedef struct {
  int64_t x, y, width, height;   /* box */
  double area;                   /* pixels */
  double area_mm2;               /* square millimetres; NaN where unknown */
  double centroid_x, centroid_y; /* the center of the first pixel is at 0 */
  double peak, mean;             /* values of the combined map in the region */
} ead_region;

/* Belongs to the library; later versions may add fields at the end. */
typedef struct {
  double score;     /* rises with abnormality */
  double p_value;   /* share of held-out normal images that score as high, in (0, 1] */
  double threshold; /* scores above it are anomalous */
  ead_decision decision;
  int64_t height, width;     /* of the image, in pixels */
  const ead_region *regions; /* the largest first; none where the image is normal */
  size_t n_regions;
} ead_prediction;

typedef struct ead_detector ead_detector;

/* Opens a model file.
 * n_threads: threads of one prediction; 0 for all cores of this process. */
ead_code ead_open(const char *path, int n_threads, ead_detector **detector);

void ead_close(ead_detector *detector);

/* Predicts for one image. Several threads may do so with one detector at the same time.
 * pixels: the first pixel of the upper row.
 * stride: bytes from one row to the next; below zero where rows lie bottom-up. */
ead_code ead_predict(const ead_detector *detector, const uint8_t *pixels,
                     int64_t height, int64_t width, int64_t stride,
                     ead_channels channels, ead_prediction **prediction);

void ead_free(ead_prediction *prediction);

/* Writes a map at the image's size: height * width values, row by row. */
ead_code ead_map(const ead_prediction *prediction, ead_map_name name, float *values);

/* What the last function of this thread that did not return EAD_OK has to say: one
 * sentence. It stays until the next such function. */
const char *ead_message(void);

/* Instructions that are used here: "avx512bf16", "avx512", "avx2" or "plain". */
const char *ead_instruction_set(void);

#ifdef __cplusplus
}
#endif

#endif
