// Layers of stride 1 and few input channels by Winograd's form along x only.
//
// In both directions, what the transforms cost would not shrink with the input channels
// as the products do. Along x alone, an output row of a tile takes T products with the
// R rows of the kernel, transformed, on R rows of input, transformed. A strip is kRows
// such rows below each other, which share their input.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "grids.h"
#include "vectors.h"
#include "winograd_layers.h"

namespace {

template <class F>
struct Strips {
  static constexpr int T = F::T, M = F::M, R = F::R;
  static constexpr int64_t kGrain = 1;
  // A column of one channel of a strip's input, filled up to whole vectors.
  static constexpr int64_t kColumn = (kRows + R - 2 + kLanes) / kLanes * kLanes;
  static constexpr int64_t kPlane = kRows * kPanel;

  // Where a strip is, in outputs before pooling.
  struct Place {
    int64_t n, top, left;
    Place(const Layer& l, int64_t unit) {
      const int64_t across = strips(l.output.width, l, M);
      const int64_t down = strips(l.output.height, l, kRows);
      n = unit / (down * across);
      top = unit / across % down * kRows;
      left = unit % across * M;
    }
  };
  static int64_t scale(const Layer& l) { return l.finish == kPool ? 2 : 1; }
  static int64_t strips(int64_t outputs, const Layer& l, int64_t size) {
    return (outputs * scale(l) + size - 1) / size;
  }
  static int64_t units(const Layer& l) {
    return l.output.n * strips(l.output.height, l, kRows) * strips(l.output.width, l, M);
  }

  // Fills `to` (T, channels, kColumn), by way of `columns`, which are as many.
  static void transform_in(const Layer& l, const Place& at, float* columns, float* to) {
    const Grid& in = l.input;
    const int64_t channels = l.in_channels, distance = channels * kColumn;
    const int64_t top = at.top - l.padding, left = at.left - l.padding;
    const int64_t x0 = std::max<int64_t>(0, -left);
    const int64_t x1 = std::min<int64_t>(T, in.width - left);
    const int64_t y0 = std::max<int64_t>(0, -top);
    const int64_t y1 = std::min<int64_t>(kRows + R - 1, in.height - top);
    std::memset(columns, 0, 4 * T * distance);
    for (int64_t y = y0; y < y1; ++y)
      for (int64_t x = x0; x < x1; ++x) {
        const float* from = in.at(at.n, top + y, left + x);
        for (int64_t c = 0; c < channels; ++c)
          columns[x * distance + c * kColumn + y] = from[c];
      }
    for (int64_t i = 0; i < distance; i += kLanes) {
      Lanes row[T], out[T];
#pragma GCC unroll 16
      for (int x = 0; x < T; ++x) row[x] = load(columns + x * distance + i);
      F::input(row, out);
#pragma GCC unroll 16
      for (int x = 0; x < T; ++x) store(to + x * distance + i, out[x]);
    }
  }

  // sums (kRows x panel) = the sum over channels and rows of the kernel.
  static void multiply(const float* a, int64_t channels, const float* b, float* sums) {
    Lanes sum[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Lanes{};
    for (int64_t c = 0; c < channels; ++c, a += kColumn, b += R * kPanel)
#pragma GCC unroll 16
      for (int k = 0; k < R; ++k) {
        const Lanes left = load(b + k * kPanel), right = load(b + k * kPanel + kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Lanes value = all(a[r + k]);
          sum[r][0] += value * left;
          sum[r][1] += value * right;
        }
      }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      store(sums + r * kPanel, sum[r][0]);
      store(sums + r * kPanel + kLanes, sum[r][1]);
    }
  }

  static inline void outputs(const Layer& l, const float* sums, Lanes bias,
                             Lanes (&y)[M]) {
    Lanes row[T];
#pragma GCC unroll 16
    for (int x = 0; x < T; ++x) row[x] = load(sums + x * kPlane);
    F::output(row, y);
#pragma GCC unroll 16
    for (int x = 0; x < M; ++x) {
      y[x] += bias;
      if (l.relu) y[x] = relu(y[x]);
    }
  }

  // The channels of one panel, from `first` on.
  static void transform_out(const Layer& l, const Place& at, const float* sums,
                            int64_t first) {
    const Grid& out = l.output;
    const int64_t rows = std::min<int64_t>(kRows, out.height * scale(l) - at.top);
    const int64_t columns = std::min<int64_t>(M, out.width * scale(l) - at.left);
    float* const to = out.at(at.n, at.top / scale(l), at.left / scale(l)) + first;
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      const Lanes bias = load(l.bias + first + c);
      Lanes upper[M], lower[M];
      if (l.finish == kPool) {
        for (int64_t i = 0; i < rows; i += 2) {
          outputs(l, sums + i * kPanel + c, bias, upper);
          outputs(l, sums + (i + 1) * kPanel + c, bias, lower);
          for (int64_t j = 0; j < columns; j += 2)
            store(to + i / 2 * out.row + j / 2 * out.pixel + c,
                  0.25f * ((upper[j] + upper[j + 1]) + (lower[j] + lower[j + 1])));
        }
      } else {
        for (int64_t i = 0; i < rows; ++i) {
          outputs(l, sums + i * kPanel + c, bias, upper);
          for (int64_t j = 0; j < columns; ++j)
            store(to + i * out.row + j * out.pixel + c, upper[j]);
        }
      }
    }
  }

  static void block(const Layer& l, int64_t first, int64_t count) {
    static_assert(M % 2 == 0 && kRows % 2 == 0, "strips are pooled by themselves");
    const int64_t plane = l.in_channels * kColumn, strip = T * plane;
    float* sums = scratch().need(T * kPlane + (count + 1) * strip);
    float* columns = sums + T * kPlane;
    float* in = columns + strip;
    for (int64_t u = 0; u < count; ++u)
      transform_in(l, Place(l, first + u), columns, in + u * strip);
    const float* weights = l.weights;
    const int64_t share = l.in_channels * R * kPanel;
    for (int64_t c = 0; c < l.out_channels; c += kPanel, weights += T * share)
      for (int64_t u = 0; u < count; ++u) {
        for (int64_t f = 0; f < T; ++f)
          multiply(in + u * strip + f * plane, l.in_channels, weights + f * share,
                   sums + f * kPlane);
        transform_out(l, Place(l, first + u), sums, c);
      }
  }
};

}  // namespace
