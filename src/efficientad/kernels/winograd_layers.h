// Layers of stride 1 by Winograd's form, cut into blocks of tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "grids.h"
#include "layers_matrices.h"
#include "vectors.h"

namespace {

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

// What the squares of a tile's outputs add up to, a vector for each of them.
template <class F>
using Squares = Lanes[F::M][F::M];

// The channels of one panel, from `first` on, of one tile.
template <class F>
void transform_out(const Layer& l, const Tiles& tiles, int64_t tile, const float* planes,
                   int64_t first, Squares<F>* squares) {
  constexpr int T = F::T, M = F::M;
  const Grid& out = l.output;
  const int64_t n = tile / (tiles.y * tiles.x), rest = tile % (tiles.y * tiles.x);
  const int64_t top = rest / tiles.x * M, left = rest % tiles.x * M;
  const int64_t scale = l.finish == kPool ? 2 : 1;
  const int64_t rows = std::min<int64_t>(M, out.height * scale - top);
  const int64_t columns = std::min<int64_t>(M, out.width * scale - left);
  float* const to = out.at(n, top / scale, left / scale);
  for (int64_t c = 0; c < kPanel; c += kLanes) {
    Lanes half[M][T], y[M][M];
    for (int64_t j = 0; j < T; ++j) {
      Lanes column[T], part[M];
#pragma GCC unroll 16
      for (int i = 0; i < T; ++i) column[i] = load(planes + (i * T + j) * kPanel + c);
      F::output(column, part);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) half[i][j] = part[i];
    }
    const Lanes bias = load(l.bias + first + c);
    for (int64_t i = 0; i < M; ++i) {
      F::output(half[i], y[i]);
      for (int j = 0; j < M; ++j) {
        y[i][j] += bias;
        if (l.relu) y[i][j] = relu(y[i][j]);
      }
    }
    float* const at = to + first + c;
    if (l.finish == kMeanSquare) {
      for (int64_t i = 0; i < M; ++i)
        for (int j = 0; j < M; ++j) (*squares)[i][j] += y[i][j] * y[i][j];
    } else if (l.finish == kPool) {
      if constexpr (M % 2 == 0)
        for (int64_t i = 0; i + 1 < rows; i += 2)
          for (int64_t j = 0; j + 1 < columns; j += 2)
            store(at + i / 2 * out.row + j / 2 * out.pixel,
                  0.25f * ((y[i][j] + y[i][j + 1]) + (y[i + 1][j] + y[i + 1][j + 1])));
    } else {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
          store(at + i * out.row + j * out.pixel, y[i][j]);
    }
  }
  if (l.finish == kMeanSquare && first + kPanel == l.out_channels)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        to[i * out.row + j * out.pixel] = sum_of((*squares)[i][j]) / l.out_channels;
}

template <class F>
struct Winograd {
  static int64_t units(const Layer& l) { return Tiles(l, F::M).n; }
  // Blocks of whole rows of products would share small layers unequally among threads.
  static constexpr int64_t kGrain = kRows / 3;
  // A row of tiles is followed by that of the next plane and by a share of the next
  // weights, which fit to some four rows of tiles.
  static constexpr int kLinesOfTiles = kRows / 2, kLinesOfWeights = kPanel / 8;

  // Panel after panel of output channels, so that what the products give is still near
  // when it is transformed back.
  static void block(const Layer& l, int64_t first, int64_t count) {
    const Tiles tiles(l, F::M);
    constexpr int64_t kFrequencies = F::T * F::T;
    constexpr int64_t kTile = kFrequencies * kPanel + kPlanePadding;
    const int64_t plane = count * l.in_channels + kPlanePadding;
    const int64_t n_squares = l.finish == kMeanSquare ? count * F::M * F::M * kLanes : 0;
    float* out = scratch().need(kFrequencies * plane + count * kTile + n_squares);
    auto* squares = reinterpret_cast<Squares<F>*>(out + count * kTile);
    float* in = out + count * kTile + n_squares;
    std::memset(squares, 0, 4 * n_squares);
    for (int64_t t = 0; t < count; ++t)
      transform_in<F>(l, tiles, first + t, in + t * l.in_channels, plane);
    const float* weights = l.weights;
    for (int64_t c = 0; c < l.out_channels; c += kPanel) {
      for (int64_t f = 0; f < kFrequencies; ++f) {
        const float* a = in + f * plane;
        const float* b = weights;
        weights += l.in_channels * kPanel;
        panel_product<kLinesOfTiles, kLinesOfWeights>(
            a, l.in_channels, count, b, l.in_channels, out + f * kPanel, kTile,
            {reinterpret_cast<const char*>(a + plane),
             reinterpret_cast<const char*>(weights)});
      }
      for (int64_t t = 0; t < count; ++t)
        transform_out<F>(l, tiles, first + t, out + t * kTile, c, squares + t);
    }
  }
};

}  // namespace
