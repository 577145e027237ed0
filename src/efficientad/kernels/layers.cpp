// Whole layers of inference, fp32, channels last: convolution, bias, ReLU, and then
// either nothing, average pooling, or the channel mean of squares.
//
// Stride 1 with 3 x 3 or 4 x 4 kernels goes by Winograd's form (Lavin & Gray, arXiv
// 1509.09308) with tiles of M x M outputs and T x T inputs, T = M + R - 1:
//
//     Y = A' [ (G g G') . (B' d B) ] A
//
// Any other convolution goes by gathered patches and one matrix product. Both cut the
// output into blocks of tiles or pixels. One thread takes a block through all steps
// (transform, products, transform back, finish) before the next, so that what lies
// between them stays in its cache and no thread waits for another. Blocks do not share
// sums: the result does not depend on the number of threads.
//
// The matrices come from `layers_matrices.h`, generated from exact fractions by
// cook_toom.py; the weights are transformed and packed in panels by layers.py.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "layers_matrices.h"


namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12;  // 24 accumulators of 32 registers
#else
constexpr int kLanes = 8, kRows = 6;  // 12 accumulators of 16 registers
#endif
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kLine = 64;
constexpr int64_t kPlanePadding = 16;  // floats: planes must not share a cache set

typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }
inline Lanes all(float value) {
#if defined(__AVX512F__)
  return Lanes{value, value, value, value, value, value, value, value,
               value, value, value, value, value, value, value, value};
#else
  return Lanes{value, value, value, value, value, value, value, value};
#endif
}
inline Lanes relu(Lanes v) { return v > 0.0f ? v : Lanes{}; }

struct Grid {
  float* data;
  int64_t n, height, width;
  int64_t pixel, row, image;  // distances in floats
  float* at(int64_t i, int64_t y, int64_t x) const {
    return data + i * image + y * row + x * pixel;
  }
};

enum Finish : int64_t { kStore = 0, kPool = 1, kMeanSquare = 2 };

struct Layer {
  Grid input, output;
  const float* weights;
  const float* bias;
  const float* residual;  // added to the output, spaced like a dense output; or null
  int64_t in_channels, out_channels;  // multiples of kLanes and kPanel (products: any in)
  int64_t kernel, stride, padding;
  int64_t relu, finish;
};

// Memory of one thread, kept for the next layer.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* need(int64_t floats) {
    const int64_t bytes = (4 * floats + kHuge - 1) / kHuge * kHuge;
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<float*>(std::aligned_alloc(kHuge, bytes));
      if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
      madvise(data_, bytes, MADV_HUGEPAGE);
#endif
      size_ = bytes;
    }
    return data_;
  }

 private:
  static constexpr int64_t kHuge = 1 << 21;
  float* data_ = nullptr;
  int64_t size_ = 0;
};

Scratch& scratch() {
  thread_local Scratch memory;
  return memory;
}

constexpr int64_t kSteps = 8;  // of a product between two fetches

// c (ROWS x panel) = a (ROWS x k) b (k x panel). Meanwhile memory that is needed next is
// fetched line by line.
template <int ROWS>
inline void multiply(const float* __restrict a, int64_t lda, const float* __restrict b,
                     int64_t k, float* __restrict c, int64_t ldc, const char* next_a,
                     const char* next_b) {
  Lanes sum[ROWS][2];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) sum[r][0] = sum[r][1] = Lanes{};
  const auto step = [&](int64_t i) __attribute__((always_inline)) {
    const Lanes left = load(b), right = load(b + kLanes);
    b += kPanel;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Lanes value = all(a[r * lda + i]);
      sum[r][0] += value * left;
      sum[r][1] += value * right;
    }
  };
  int64_t i = 0;
  for (; i + kSteps <= k; i += kSteps) {
    __builtin_prefetch(next_a, 0, 2);
    __builtin_prefetch(next_b, 0, 2);
    next_a += kLine;
    next_b += kLine;
#pragma GCC unroll 8
    for (int64_t s = 0; s < kSteps; ++s) step(i + s);
  }
  for (; i < k; ++i) step(i);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    store(c + r * ldc, sum[r][0]);
    store(c + r * ldc + kLanes, sum[r][1]);
  }
}

template <int ROWS, class... More>
void multiply_rest(int64_t rows, More... more) {
  if (rows == ROWS)
    multiply<ROWS>(more...);
  else if constexpr (ROWS > 1)
    multiply_rest<ROWS - 1>(rows, more...);
}

// c (rows x n) = a (rows x k) b, b packed in panels of kPanel columns. What lies behind
// a and b, the operands of the next product, is fetched meanwhile.
void product(const float* a, int64_t lda, int64_t rows, const float* b, int64_t k,
             int64_t n, float* c, int64_t ldc) {
  const int64_t fetched = k / kSteps * kLine;
  const char* next_a = reinterpret_cast<const char*>(a + rows * lda);
  for (int64_t j = 0; j < n; j += kPanel, b += k * kPanel) {
    const char* next_b = reinterpret_cast<const char*>(b + k * kPanel);
    for (int64_t i = 0; i < rows; i += kRows) {
      if (rows - i >= kRows)
        multiply<kRows>(a + i * lda, lda, b, k, c + i * ldc + j, ldc, next_a, next_b);
      else
        multiply_rest<kRows - 1>(rows - i, a + i * lda, lda, b, k, c + i * ldc + j, ldc,
                                 next_a, next_b);
      next_a += fetched;
      next_b += fetched;
    }
  }
}

// One dimension of a transform. Points come in pairs p, -p whose rows share half of
// their terms; W holds the halves and `butterfly` joins them. Zeros vanish at compile
// time.
template <int T, int PAIRS>
inline void butterfly(Lanes (&v)[T]) {
#pragma GCC unroll 16
  for (int p = 0; p < PAIRS; ++p) {
    const Lanes a = v[1 + 2 * p], b = v[2 + 2 * p];
    v[1 + 2 * p] = a + b;
    v[2 + 2 * p] = a - b;
  }
}

template <int O, int I, const float (&W)[O][I]>
inline void apply(const Lanes (&in)[I], Lanes (&out)[O]) {
#pragma GCC unroll 16
  for (int o = 0; o < O; ++o) {
    Lanes sum = {};
#pragma GCC unroll 16
    for (int i = 0; i < I; ++i)
      if (W[o][i] != 0.0f) sum += W[o][i] * in[i];
    out[o] = sum;
  }
}

template <int M_, int R_, const float (&A_)[M_][M_ + R_ - 1],
          const float (&B_)[M_ + R_ - 1][M_ + R_ - 1]>
struct Form {
  static constexpr int M = M_, R = R_, T = M + R - 1, kPairs = (T - 2) / 2;

  static inline void input(const Lanes (&in)[T], Lanes (&out)[T]) {
    apply<T, T, B_>(in, out);
    butterfly<T, kPairs>(out);
  }
  static inline void output(Lanes (&in)[T], Lanes (&out)[M]) {
    butterfly<T, kPairs>(in);
    apply<M, T, A_>(in, out);
  }
};

// Where the tiles of a layer are.
struct Tiles {
  int64_t y, x, n;
  Tiles(const Layer& l, int64_t step) {
    const int64_t scale = l.finish == kPool ? 2 : 1;
    y = (l.output.height * scale + step - 1) / step;
    x = (l.output.width * scale + step - 1) / step;
    n = l.output.n * y * x;
  }
};

template <class F>
void transform_in(const Layer& l, const Tiles& tiles, int64_t tile, float* planes,
                  int64_t plane) {
  constexpr int T = F::T;
  const Grid& in = l.input;
  const int64_t n = tile / (tiles.y * tiles.x), rest = tile % (tiles.y * tiles.x);
  const int64_t top = rest / tiles.x * F::M - l.padding;
  const int64_t left = rest % tiles.x * F::M - l.padding;
  const int64_t y0 = std::max<int64_t>(0, -top), x0 = std::max<int64_t>(0, -left);
  const int64_t y1 = std::min<int64_t>(T, in.height - top);
  const int64_t x1 = std::min<int64_t>(T, in.width - left);
  for (int64_t c = 0; c < l.in_channels; c += kLanes) {
    Lanes half[T][T];
    for (int64_t j = 0; j < T; ++j) {
      Lanes column[T], out[T];
      if (j < x0 || j >= x1) {
        for (int i = 0; i < T; ++i) half[i][j] = Lanes{};
        continue;
      }
      const float* from = in.at(n, top, left + j) + c;
      if (y0 == 0 && y1 == T) {
#pragma GCC unroll 16
        for (int i = 0; i < T; ++i) column[i] = load(from + i * in.row);
      } else {
        for (int i = 0; i < T; ++i)
          column[i] = i >= y0 && i < y1 ? load(from + i * in.row) : Lanes{};
      }
      F::input(column, out);
#pragma GCC unroll 16
      for (int i = 0; i < T; ++i) half[i][j] = out[i];
    }
    for (int64_t i = 0; i < T; ++i) {
      Lanes out[T];
      F::input(half[i], out);
      float* to = planes + i * T * plane + c;
#pragma GCC unroll 16
      for (int j = 0; j < T; ++j) {
        store(to + j * plane, out[j]);
        __builtin_prefetch(to + j * plane + 2 * kLanes, 1, 3);
      }
    }
  }
}

inline float sum_of(Lanes v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

template <class F>
void transform_out(const Layer& l, const Tiles& tiles, int64_t tile, const float* planes,
                   int64_t plane) {
  constexpr int T = F::T, M = F::M;
  const Grid& out = l.output;
  const int64_t n = tile / (tiles.y * tiles.x), rest = tile % (tiles.y * tiles.x);
  const int64_t top = rest / tiles.x * M, left = rest % tiles.x * M;
  const int64_t scale = l.finish == kPool ? 2 : 1;
  const int64_t rows = std::min<int64_t>(M, out.height * scale - top);
  const int64_t columns = std::min<int64_t>(M, out.width * scale - left);
  float* const to = out.at(n, top / scale, left / scale);
  Lanes squares[M][M] = {};
  for (int64_t c = 0; c < l.out_channels; c += kLanes) {
    Lanes half[M][T], y[M][M];
    for (int64_t j = 0; j < T; ++j) {
      Lanes column[T], part[M];
#pragma GCC unroll 16
      for (int i = 0; i < T; ++i) {
        column[i] = load(planes + (i * T + j) * plane + c);
        __builtin_prefetch(planes + (i * T + j) * plane + c + 2 * kLanes, 0, 3);
      }
      F::output(column, part);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) half[i][j] = part[i];
    }
    const Lanes bias = load(l.bias + c);
    for (int64_t i = 0; i < M; ++i) {
      F::output(half[i], y[i]);
      for (int j = 0; j < M; ++j) {
        y[i][j] += bias;
        if (l.relu) y[i][j] = relu(y[i][j]);
      }
    }
    if (l.finish == kMeanSquare) {
      for (int64_t i = 0; i < M; ++i)
        for (int j = 0; j < M; ++j) squares[i][j] += y[i][j] * y[i][j];
    } else if (l.finish == kPool) {
      if constexpr (M % 2 == 0)
        for (int64_t i = 0; i + 1 < rows; i += 2)
          for (int64_t j = 0; j + 1 < columns; j += 2)
            store(to + i / 2 * out.row + j / 2 * out.pixel + c,
                  0.25f * ((y[i][j] + y[i][j + 1]) + (y[i + 1][j] + y[i + 1][j + 1])));
    } else {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          store(to + i * out.row + j * out.pixel + c, y[i][j]);
    }
  }
  if (l.finish == kMeanSquare)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        to[i * out.row + j * out.pixel] = sum_of(squares[i][j]) / l.out_channels;
}

template <class F>
struct Winograd {
  static int64_t units(const Layer& l) { return Tiles(l, F::M).n; }
  static constexpr int64_t kGrain = kRows;

  static void block(const Layer& l, int64_t first, int64_t count) {
    const Tiles tiles(l, F::M);
    constexpr int64_t kFrequencies = F::T * F::T;
    const int64_t in_plane = count * l.in_channels + kPlanePadding;
    const int64_t out_plane = count * l.out_channels + kPlanePadding;
    float* in = scratch().need(kFrequencies * (in_plane + out_plane));
    float* out = in + kFrequencies * in_plane;
    for (int64_t t = 0; t < count; ++t)
      transform_in<F>(l, tiles, first + t, in + t * l.in_channels, in_plane);
    for (int64_t f = 0; f < kFrequencies; ++f)
      product(in + f * in_plane, l.in_channels, count,
              l.weights + f * l.in_channels * l.out_channels, l.in_channels,
              l.out_channels, out + f * out_plane, l.out_channels);
    for (int64_t t = 0; t < count; ++t)
      transform_out<F>(l, tiles, first + t, out + t * l.out_channels, out_plane);
  }
};

// Any kernel and stride: gathered patches times weights. A unit is an output pixel.
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
    product(patches, k, count * parts, l.weights, k, l.out_channels, sums,
            l.out_channels);
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
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t b = 0; b < n_blocks; ++b) {
    int64_t block = b, i = 0;
    for (; block >= (Kind::units(layers[i]) + size - 1) / size; ++i)
      block -= (Kind::units(layers[i]) + size - 1) / size;
    const int64_t first = block * size;
    Kind::block(layers[i], first, std::min(size, Kind::units(layers[i]) - first));
  }
}

}  // namespace

extern "C" int64_t lanes() { return kLanes; }
extern "C" int64_t panel() { return kPanel; }

// Asks the system for huge pages, where it has them.
extern "C" void advise_huge(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
}

extern "C" void patches(const Layer* l, int64_t n, int64_t threads, int64_t block) {
  run<Patches>(l, n, threads, block);
}

#define WINOGRAD(M, R)                                                                 \
  extern "C" void winograd_##M##_##R(const Layer* l, int64_t n, int64_t threads,       \
                                     int64_t block) {                                  \
    run<Winograd<Form<M, R, kA_##M##_##R, kB_##M##_##R>>>(l, n, threads, block);       \
  }

WINOGRAD(6, 3)
WINOGRAD(6, 4)
WINOGRAD(7, 4)

// RGB bytes (n, height, width, 3) to floats.
extern "C" void to_float(const uint8_t* pixels, const Grid* to, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) collapse(2)
  for (int64_t n = 0; n < to->n; ++n)
    for (int64_t y = 0; y < to->height; ++y) {
      const uint8_t* from = pixels + (n * to->height + y) * to->width * to->pixel;
      float* row = to->at(n, y, 0);
      for (int64_t i = 0; i < to->width * to->pixel; ++i) row[i] = from[i];
    }
}

constexpr int64_t kValuesPerThread = 50000;

// Bilinear, each output pixel at its centre's place, as PyTorch without align_corners.
extern "C" void resize(const Grid* from, const Grid* to, int64_t channels,
                       int64_t threads) {
  const float down = static_cast<float>(from->height) / to->height;
  const float across = static_cast<float>(from->width) / to->width;
  const int64_t values = to->n * to->height * to->width * channels;
  threads = std::clamp<int64_t>(values / kValuesPerThread, 1, threads);
#pragma omp parallel for schedule(static) num_threads(threads) collapse(2)
  for (int64_t n = 0; n < to->n; ++n)
    for (int64_t y = 0; y < to->height; ++y) {
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
    }
}
