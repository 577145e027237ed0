// The transforms of Winograd convolution, fp32, channels last (n, h, w, c).
//
// A convolution with an R x R kernel is cut into tiles of M x M outputs; each tile sees
// T x T inputs, T = M + R - 1. Winograd's form (Lavin & Gray, arXiv 1509.09308):
//
//     Y = A' [ (G g G') . (B' d B) ] A
//
// so that the convolution becomes T * T independent matrix products over the channels,
// which the caller leaves to the BLAS. Here are the four linear maps around them:
// gather (B' d B, and the adjoint of the output map) and scatter (A' m A, and the
// adjoint of the input map). The matrices come from `winograd_matrices.h`, generated
// from exact fractions by winograd.py.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "winograd_matrices.h"

namespace {

constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }

// out = W d W', W is O x I. Zeros of W vanish at compile time.
template <int O, int I, const float (&W)[O][I]>
inline void sandwich(const Lanes (&d)[I][I], Lanes (&out)[O][O]) {
  Lanes half[O][I];
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 16
    for (int j = 0; j < I; ++j) {
      Lanes sum = {};
#pragma GCC unroll 16
      for (int i = 0; i < I; ++i)
        if (W[o][i] != 0.0f) sum += W[o][i] * d[i][j];
      half[o][j] = sum;
    }
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 16
    for (int p = 0; p < O; ++p) {
      Lanes sum = {};
#pragma GCC unroll 16
      for (int j = 0; j < I; ++j)
        if (W[p][j] != 0.0f) sum += W[p][j] * half[o][j];
      out[o][p] = sum;
    }
}

struct Shape {
  int64_t n, height, width, channels;  // of the image side
  int64_t tiles_y, tiles_x, step, offset;  // tile (a, b) starts at a * step - offset
  int64_t tiles() const { return n * tiles_y * tiles_x; }
};

// image (n, h, w, c) -> planes (O * O, tiles, c); outside the image are zeros.
template <int O, int I, const float (&W)[O][I]>
void gather(const float* image, float* planes, Shape s) {
  const int64_t tiles = s.tiles(), per_image = s.tiles_y * s.tiles_x;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t n = tile / per_image, rest = tile % per_image;
    const int64_t top = (rest / s.tiles_x) * s.step - s.offset;
    const int64_t left = (rest % s.tiles_x) * s.step - s.offset;
    const float* base = image + n * s.height * s.width * s.channels;
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      Lanes d[I][I], out[O][O];
      for (int i = 0; i < I; ++i)
        for (int j = 0; j < I; ++j) {
          const int64_t y = top + i, x = left + j;
          const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
          d[i][j] = inside ? load(base + (y * s.width + x) * s.channels + c) : Lanes{};
        }
      sandwich<O, I, W>(d, out);
      for (int o = 0; o < O; ++o)
        for (int p = 0; p < O; ++p)
          store(planes + ((o * O + p) * tiles + tile) * s.channels + c, out[o][p]);
    }
  }
}

// planes (I * I, tiles, c) -> image, tiles side by side (step O), plus bias, then ReLU.
template <int O, int I, const float (&W)[O][I]>
void scatter(const float* planes, float* image, const float* bias, int relu, Shape s) {
  const int64_t tiles = s.tiles(), per_image = s.tiles_y * s.tiles_x;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t n = tile / per_image, rest = tile % per_image;
    const int64_t top = (rest / s.tiles_x) * s.step, left = (rest % s.tiles_x) * s.step;
    float* base = image + n * s.height * s.width * s.channels;
    for (int64_t c = 0; c < s.channels; c += kLanes) {
      Lanes d[I][I], out[O][O];
      for (int i = 0; i < I; ++i)
        for (int j = 0; j < I; ++j)
          d[i][j] = load(planes + ((i * I + j) * tiles + tile) * s.channels + c);
      sandwich<O, I, W>(d, out);
      const Lanes add = bias ? load(bias + c) : Lanes{};
      for (int o = 0; o < O && top + o < s.height; ++o)
        for (int p = 0; p < O && left + p < s.width; ++p) {
          Lanes v = out[o][p] + add;
          if (relu) v = v <= 0.0f ? Lanes{} : v;  // not a number stays one
          store(base + ((top + o) * s.width + left + p) * s.channels + c, v);
        }
    }
  }
}

// planes (I * I, tiles, c) -> image, overlapping tiles added up: the adjoint of gather.
// Threads own channels, a line of the cache each, so the order of additions never depends
// on their number.
template <int O, int I, const float (&W)[O][I]>
void scatter_add(const float* planes, float* image, Shape s) {
  constexpr int64_t kOwned = 2 * kLanes;
  const int64_t tiles = s.tiles(), blocks = (s.channels + kOwned - 1) / kOwned;
  std::memset(image, 0, sizeof(float) * s.n * s.height * s.width * s.channels);
#pragma omp parallel for schedule(static) collapse(2)
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t block = 0; block < blocks; ++block) {
      float* base = image + n * s.height * s.width * s.channels;
      const int64_t end = std::min((block + 1) * kOwned, s.channels);
      for (int64_t a = 0; a < s.tiles_y; ++a)
        for (int64_t b = 0; b < s.tiles_x; ++b)
          for (int64_t c = block * kOwned; c < end; c += kLanes) {
            const int64_t tile = (n * s.tiles_y + a) * s.tiles_x + b;
            Lanes d[I][I], out[O][O];
            for (int i = 0; i < I; ++i)
              for (int j = 0; j < I; ++j)
                d[i][j] = load(planes + ((i * I + j) * tiles + tile) * s.channels + c);
            sandwich<O, I, W>(d, out);
            for (int o = 0; o < O; ++o)
              for (int p = 0; p < O; ++p) {
                const int64_t y = a * s.step - s.offset + o;
                const int64_t x = b * s.step - s.offset + p;
                if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
                float* at = base + (y * s.width + x) * s.channels + c;
                store(at, load(at) + out[o][p]);
              }
          }
    }
}

// What a pooling over 2 x 2 reads and writes, channels last, with zeros around.
struct Pooling {
  int64_t n, height, width, channels, rows, columns, padding;
};

}  // namespace

// ReLU, then the average over 2 x 2, in PyTorch's order of additions. Not a number stays
// one.
extern "C" void relu_pool(const float* image, float* pooled, const Pooling* given) {
  const Pooling p = *given;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < p.n * p.rows; ++row) {
    const int64_t top = row % p.rows * 2 - p.padding;
    const float* base = image + row / p.rows * p.height * p.width * p.channels;
    for (int64_t column = 0; column < p.columns; ++column) {
      const int64_t left = column * 2 - p.padding;
      float* to = pooled + (row * p.columns + column) * p.channels;
      const float* from[4];
      int n = 0;
      for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + 2, p.height); ++y)
        for (int64_t x = std::max<int64_t>(left, 0); x < std::min(left + 2, p.width); ++x)
          from[n++] = base + (y * p.width + x) * p.channels;
      for (int64_t c = 0; c < p.channels; c += kLanes) {
        Lanes sum = {};
        for (int i = 0; i < n; ++i) {
          const Lanes v = load(from[i] + c);
          sum += v <= 0.0f ? Lanes{} : v;
        }
        store(to + c, 0.25f * sum);
      }
    }
  }
}

// Its adjoint at `image`: the gradient of what was read.
extern "C" void relu_pool_adjoint(const float* pooled, const float* image, float* to,
                                  const Pooling* given) {
  const Pooling p = *given;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < p.n * p.height; ++row) {
    const int64_t y = (row % p.height + p.padding) / 2;
    const float* base = pooled + (row / p.height * p.rows + y) * p.columns * p.channels;
    for (int64_t column = 0; column < p.width; ++column) {
      const int64_t x = (column + p.padding) / 2;
      const int64_t at = (row * p.width + column) * p.channels;
      if (y >= p.rows || x >= p.columns) {
        std::memset(to + at, 0, sizeof(float) * p.channels);
        continue;
      }
      for (int64_t c = 0; c < p.channels; c += kLanes) {
        const Lanes share = 0.25f * load(base + x * p.channels + c);
        store(to + at + c, load(image + at + c) <= 0.0f ? Lanes{} : share);
      }
    }
  }
}

// One set of entry points per tile M and kernel size R. B is T x T (B'), A is M x T (A'),
// and BAdjoint, AAdjoint are their transposes.
#define WINOGRAD(M, R)                                                                   \
  extern "C" void input_transform_##M##_##R(const float* image, float* planes,           \
                                            Shape* s) {                                  \
    gather<M + R - 1, M + R - 1, kB_##M##_##R>(image, planes, *s);                       \
  }                                                                                      \
  extern "C" void output_transform_##M##_##R(const float* planes, float* image,          \
                                             const float* bias, int relu, Shape* s) {    \
    scatter<M, M + R - 1, kA_##M##_##R>(planes, image, bias, relu, *s);                  \
  }                                                                                      \
  extern "C" void output_adjoint_##M##_##R(const float* image, float* planes,            \
                                           Shape* s) {                                   \
    gather<M + R - 1, M, kAAdjoint_##M##_##R>(image, planes, *s);                        \
  }                                                                                      \
  extern "C" void input_adjoint_##M##_##R(const float* planes, float* image, Shape* s) { \
    scatter_add<M + R - 1, M + R - 1, kBAdjoint_##M##_##R>(planes, image, *s);           \
  }

WINOGRAD(4, 3)
WINOGRAD(4, 4)
WINOGRAD(6, 3)
WINOGRAD(7, 4)
