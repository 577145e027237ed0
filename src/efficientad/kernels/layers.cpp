// Whole layers of inference, fp32, channels last: convolution, bias, ReLU, and then
// either nothing, average pooling, or the channel mean of squares.
//
// Stride 1 with 3 x 3 or 4 x 4 kernels goes by Winograd's form (Lavin & Gray, arXiv
// 1509.09308) with tiles of M x M outputs and T x T inputs, T = M + R - 1:
//
//     Y = A' [ (G g G') . (B' d B) ] A
//
// With few input channels that form is taken along x only. Any other convolution goes by
// gathered patches and one matrix product. All cut the output into blocks of tiles,
// strips or pixels. One thread takes a block through all steps
// (transform, products, transform back, finish) before the next, so that what lies
// between them stays in its cache and no thread waits for another. Blocks do not share
// sums: the result does not depend on the number of threads.
//
// `winograd_layers.h` has the first way, `winograd_strips.h` the second, this file the
// third and all that is called from outside. The matrices come from `layers_matrices.h`,
// generated from exact fractions by cook_toom.py.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "grids.h"
#include "threads.h"
#include "vectors.h"
#include "winograd_layers.h"
#include "winograd_strips.h"

namespace {

// Any kernel and stride: gathered patches times weights. A unit is an output pixel.
template <bool IS_ROUNDED>
struct Patches {
  static int64_t units(const Layer& l) {
    return l.output.n * l.output.height * l.output.width;
  }
  static constexpr int64_t kGrain = 1;

  static void gather(const Layer& l, int64_t n, int64_t y, int64_t x, float* to) {
    const Grid& in = l.input;
    const int64_t c = l.in_channels, top = y * l.stride - l.padding;
    const int64_t left = x * l.stride - l.padding;
    const bool whole = in.pixel == c && left >= 0 && left + l.kernel <= in.width;
    for (int64_t i = 0; i < l.kernel; ++i, to += l.kernel * c) {
      if (top + i < 0 || top + i >= in.height) {
        std::memset(to, 0, 4 * l.kernel * c);
      } else if (whole) {
        std::memcpy(to, in.at(n, top + i, left), 4 * l.kernel * c);
      } else {
        for (int64_t j = 0; j < l.kernel; ++j)
          if (left + j < 0 || left + j >= in.width)
            std::memset(to + j * c, 0, 4 * c);
          else
            std::memcpy(to + j * c, in.at(n, top + i, left + j), 4 * c);
      }
    }
  }

  static void finish(const Layer& l, int64_t unit, const float* sums, float* to) {
    const int64_t n = l.out_channels;
    Lanes squares = {};
    for (int64_t c = 0; c < n; c += kLanes) {
      const Lanes bias = load(l.bias + c);
      Lanes v = {};
      for (int part = 0; part < (l.finish == kPool ? 4 : 1); ++part) {
        Lanes one = load(sums + part * n + c) + bias;
        if (l.residual) one += load(l.residual + unit * n + c);
        v += l.relu ? relu(one) : one;
      }
      if (l.finish == kMeanSquare)
        squares += v * v;
      else
        store(to + c, l.finish == kPool ? 0.25f * v : v);
    }
    if (l.finish == kMeanSquare) *to = sum_of(squares) / n;
  }

  // The patches may be overwritten.
  static void multiply(const Layer& l, float* patches, int64_t k, int64_t rows,
                       float* sums) {
#if defined(__AVX512BF16__)
    if constexpr (IS_ROUNDED) {
      Pair* pairs = reinterpret_cast<Pair*>(patches);
      round_to_pairs(patches, rows * k / 2, pairs);
      return product(pairs, rows, reinterpret_cast<const Pair*>(l.weights), k / 2,
                     l.out_channels, sums);
    }
#endif
    product(patches, k, rows, l.weights, k, l.out_channels, sums, l.out_channels);
  }

  static void block(const Layer& l, int64_t first, int64_t count) {
    const bool pools = l.finish == kPool;
    const int64_t k = l.kernel * l.kernel * l.in_channels, parts = pools ? 4 : 1;
    float* patches = scratch().need(count * parts * (k + l.out_channels) + kPlanePadding);
    float* sums = patches + (count * parts * k + 15) / 16 * 16;
    const int64_t height = l.output.height, width = l.output.width;
    for (int64_t u = 0; u < count; ++u) {
      const int64_t x = (first + u) % width, y = (first + u) / width % height;
      const int64_t n = (first + u) / (width * height);
      for (int64_t part = 0; part < parts; ++part)
        gather(l, n, pools ? 2 * y + part / 2 : y, pools ? 2 * x + part % 2 : x,
               patches + (u * parts + part) * k);
    }
    multiply(l, patches, k, count * parts, sums);
    for (int64_t u = 0; u < count; ++u) {
      const int64_t x = (first + u) % width, y = (first + u) / width % height;
      finish(l, first + u, sums + u * parts * l.out_channels,
             l.output.at((first + u) / (width * height), y, x));
    }
  }
};

// Less work than this is done before another thread has woken up.
constexpr int64_t kProductsPerThread = 1000000;

// All blocks of all layers, which do not depend on each other, over the threads.
template <class Kind>
void run(const Layer* layers, int64_t n_layers, int64_t threads, int64_t largest) {
  int64_t units = 0, products = 0;
  for (int64_t i = 0; i < n_layers; ++i) {
    const Layer& l = layers[i];
    units += Kind::units(l);
    products += Kind::units(l) * l.kernel * l.kernel * l.in_channels * l.out_channels;
  }
  threads = std::clamp<int64_t>(products / kProductsPerThread, 1, threads);
  int64_t n_blocks = (units + largest - 1) / largest;
  n_blocks = (n_blocks + threads - 1) / threads * threads;
  int64_t size = (units + n_blocks - 1) / n_blocks;
  size = (size + Kind::kGrain - 1) / Kind::kGrain * Kind::kGrain;
  n_blocks = 0;
  for (int64_t i = 0; i < n_layers; ++i)
    n_blocks += (Kind::units(layers[i]) + size - 1) / size;
  parallel(n_blocks, threads, [&](int64_t block) {
    int64_t i = 0;
    for (; block >= (Kind::units(layers[i]) + size - 1) / size; ++i)
      block -= (Kind::units(layers[i]) + size - 1) / size;
    const int64_t first = block * size;
    Kind::block(layers[i], first, std::min(size, Kind::units(layers[i]) - first));
  });
}

}  // namespace

// The functions of each instruction set have names of their own, so that one library
// can hold several.
#ifndef ISA
#define ISA _native
#endif
#define JOINED_(name, isa) name##isa
#define JOINED(name, isa) JOINED_(name, isa)
#define EXPORT(type, name) extern "C" type JOINED(name, ISA)

EXPORT(int64_t, lanes)() { return kLanes; }
EXPORT(int64_t, panel)() { return kPanel; }

// Asks the system for huge pages, where it has them.
EXPORT(void, advise_huge)(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

EXPORT(void, patches)(const Layer* l, int64_t n, int64_t threads, int64_t block) {
  run<Patches<false>>(l, n, threads, block);
}

// With products in bf16; only where the processor has them.
EXPORT(void, patches_bf16)(const Layer* l, int64_t n, int64_t threads, int64_t block) {
  run<Patches<true>>(l, n, threads, block);
}
EXPORT(int64_t, has_bf16)() { return kHasPairs; }

#define WINOGRAD(M, R)                                                                 \
  EXPORT(void, winograd_##M##_##R)                                                     \
  (const Layer* l, int64_t n, int64_t threads, int64_t block) {                        \
    run<Winograd<Form<M, R, kA_##M##_##R, kB_##M##_##R>>>(l, n, threads, block);       \
  }

WINOGRAD(6, 3)
WINOGRAD(6, 4)
WINOGRAD(7, 4)
WINOGRAD(8, 4)

#define STRIPS(M, R)                                                                   \
  EXPORT(void, strips_##M##_##R)                                                       \
  (const Layer* l, int64_t n, int64_t threads, int64_t block) {                        \
    run<Strips<Form<M, R, kA_##M##_##R, kB_##M##_##R>>>(l, n, threads, block);         \
  }

STRIPS(6, 4)

namespace {

// A form's matrix (T, R) of the kernel.
struct KernelMatrix {
  const double* values;
  int64_t T, R;
};

template <int T, int R>
KernelMatrix kernel_matrix(const double (&values)[T][R]) {
  return {&values[0][0], T, R};
}

// sums (panel) += factor * values (panel).
inline void add(double factor, const double* values, double* sums) {
  for (int j = 0; j < kPanel; ++j) sums[j] += factor * values[j];
}

inline void round_to(const double* sums, float* to) {
  for (int j = 0; j < kPanel; ++j) to[j] = static_cast<float>(sums[j]);
}

// One panel of weights (panel, in, R, R) to (planes, rows, panel), where rows are input
// channels, and with a flat form the rows of the kernel for each of them. Some channels
// are gathered before they are written, so that writes are not spread over all planes.
void pack_panel(const KernelMatrix& g, const double* weights, int64_t in, bool flat,
                float* to) {
  constexpr int64_t kMostTaps = 4, kChannels = 8;
  const int64_t T = g.T, R = g.R, row = (flat ? R : 1) * kPanel, plane = in * row;
  const int64_t n_planes = flat ? T : T * T, part = kChannels * row + kPlanePadding;
  float* parts = scratch().need(n_planes * part);
  for (int64_t i = 0; i < in; ++i) {
    float* const out = parts + i % kChannels * row;
    double taps[kMostTaps][kMostTaps][kPanel];  // by the dimension that goes first
    for (int64_t j = 0; j < kPanel; ++j) {
      const double* tap = weights + (j * in + i) * R * R;
      for (int64_t y = 0; y < R; ++y)
        for (int64_t x = 0; x < R; ++x) (flat ? taps[x][y] : taps[y][x])[j] = *tap++;
    }
    for (int64_t t = 0; t < T; ++t) {
      double half[kMostTaps][kPanel] = {};
      for (int64_t r = 0; r < R; ++r)
        for (int64_t k = 0; k < R; ++k) add(g.values[t * R + k], taps[k][r], half[r]);
      if (flat) {
        for (int64_t r = 0; r < R; ++r) round_to(half[r], out + t * part + r * kPanel);
        continue;
      }
      for (int64_t u = 0; u < T; ++u) {
        double sums[kPanel] = {};
        for (int64_t r = 0; r < R; ++r) add(g.values[u * R + r], half[r], sums);
        round_to(sums, out + (t * T + u) * part);
      }
    }
    const int64_t n_ready = i % kChannels + 1;
    if (n_ready < kChannels && i + 1 < in) continue;
    for (int64_t f = 0; f < n_planes; ++f)
      std::memcpy(to + f * plane + (i + 1 - n_ready) * row, parts + f * part,
                  4 * n_ready * row);
  }
}

}  // namespace

// Transforms weights (out, in, kernel, kernel) in double precision, and packs them in
// panels: (panels, planes, rows, columns of a panel). Tile 0 stands for patches.
EXPORT(void, pack)(const double* weights, int64_t out, int64_t in, int64_t kernel,
                   int64_t tile, int64_t flat, float* to, int64_t threads) {
  const int64_t side = tile ? tile + kernel - 1 : kernel, taps = kernel * kernel;
  const int64_t panel = side * (flat ? kernel : side) * in * kPanel;
  const KernelMatrix g = tile == 7     ? kernel_matrix(kG_7_4)
                         : tile == 8   ? kernel_matrix(kG_8_4)
                         : kernel == 4 ? kernel_matrix(kG_6_4)
                                       : kernel_matrix(kG_6_3);
  parallel(out / kPanel, threads, [&](int64_t p) {
    const double* from = weights + p * kPanel * in * taps;
    float* into = to + p * panel;
    if (tile) return pack_panel(g, from, in, flat, into);
    for (int64_t k = 0; k < taps; ++k)
      for (int64_t i = 0; i < in; ++i)
        for (int64_t j = 0; j < kPanel; ++j)
          *into++ = static_cast<float>(from[(j * in + i) * taps + k]);
  });
}

constexpr int64_t kRowsPerBlock = 32;

// RGB bytes (n, height, width, 3) to floats.
EXPORT(void, to_float)(const uint8_t* pixels, const Grid* to, int64_t threads) {
  const int64_t values = to->width * to->pixel;
  parallel(to->n * to->height / kRowsPerBlock + 1, threads, [&](int64_t block) {
    const int64_t end = std::min(to->n * to->height, (block + 1) * kRowsPerBlock);
    for (int64_t line = block * kRowsPerBlock; line < end; ++line) {
      const uint8_t* from = pixels + line * values;
      float* row = to->at(line / to->height, line % to->height, 0);
      for (int64_t i = 0; i < values; ++i) row[i] = from[i];
    }
  });
}

constexpr int64_t kValuesPerThread = 50000;

// Bilinear, each output pixel at its centre's place, as PyTorch without align_corners.
EXPORT(void, resize)(const Grid* from, const Grid* to, int64_t channels,
                       int64_t threads) {
  const float down = static_cast<float>(from->height) / to->height;
  const float across = static_cast<float>(from->width) / to->width;
  const int64_t values = to->n * to->height * to->width * channels;
  threads = std::clamp<int64_t>(values / kValuesPerThread, 1, threads);
  parallel(to->n * to->height, threads, [&](int64_t line) {
    const int64_t n = line / to->height, y = line % to->height;
    const float fy = std::max(0.0f, (y + 0.5f) * down - 0.5f);
    const int64_t y0 = static_cast<int64_t>(fy);
    const int64_t y1 = std::min(y0 + 1, from->height - 1);
    const float wy = fy - y0;
    for (int64_t x = 0; x < to->width; ++x) {
      const float fx = std::max(0.0f, (x + 0.5f) * across - 0.5f);
      const int64_t x0 = static_cast<int64_t>(fx);
      const int64_t x1 = std::min(x0 + 1, from->width - 1);
      const float wx = fx - x0;
      const float *a = from->at(n, y0, x0), *b = from->at(n, y0, x1);
      const float *c = from->at(n, y1, x0), *d = from->at(n, y1, x1);
      float* out = to->at(n, y, x);
      for (int64_t i = 0; i < channels; i += kLanes) {
        const Lanes upper = (1 - wx) * load(a + i) + wx * load(b + i);
        const Lanes lower = (1 - wx) * load(c + i) + wx * load(d + i);
        store(out + i, (1 - wy) * upper + wy * lower);
      }
    }
  });
}
