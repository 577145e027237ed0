// Weights of layers as their kernels take them, and the check of these on small layers.
#pragma once

#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "dispatch.h"
#include "grids.h"

namespace {

// Floats on huge pages, where the system has them.
class Floats {
 public:
  explicit Floats(int64_t n) {
    const int64_t bytes = (4 * n + kPage - 1) / kPage * kPage;
    data_.reset(static_cast<float*>(std::aligned_alloc(kPage, bytes)));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= 2 * kHuge) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
  }
  float* data() const { return data_.get(); }

 private:
  static constexpr int64_t kPage = 4096, kHuge = 1 << 21;
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  std::unique_ptr<float, Free> data_;
};

int64_t floats_of(const Described& l) {
  const int64_t side = l.tile ? l.tile + l.kernel - 1 : l.kernel;
  return side * (l.flat ? l.kernel : side) * l.in * l.out;
}

// Weights as the layers take them.
Floats packed(const Kernels& kernels, const Described& l, int64_t threads) {
  Floats to(floats_of(l));
  kernels.pack(l.weights.data(), l.out, l.in, l.kernel, l.tile, l.flat, to.data(), threads);
  return to;
}

Layer layer_of(const Described& l, const float* weights, const float* residual,
               const Grid& input, const Grid& output) {
  return {input,  output,    weights,  l.bias.data(), residual, l.in,
          l.out,  l.kernel,  l.stride, l.padding,     l.relu,   l.finish};
}

// Whether a small layer of each form is a convolution on this processor.
bool is_right(const Kernels& kernels) {
  constexpr int64_t n = 32, height = 17, width = 18;
  uint32_t state = 1;
  const auto draw = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / (1 << 23) - 1.0f;
  };
  for (const auto& [tile, kernel, flat] :
       {std::array<int64_t, 3>{6, 3, 0}, {6, 4, 0}, {7, 4, 0}, {8, 4, 0}, {6, 4, 1},
        {0, 3, 0}}) {
    Described l{n, n, kernel, 1, 0, 0, kStore, tile, flat, {}, std::vector<float>(n)};
    for (int64_t i = 0; i < n * n * kernel * kernel; ++i) l.weights.push_back(draw());
    std::vector<float> in(height * width * n);
    for (float& value : in) value = draw();
    const int64_t rows = height - kernel + 1, columns = width - kernel + 1;
    std::vector<float> out(rows * columns * n);
    const Floats weights = packed(kernels, l, 1);
    const Layer layer = layer_of(
        l, weights.data(), nullptr,
        {in.data(), 1, height, width, n, width * n, height * width * n},
        {out.data(), 1, rows, columns, n, columns * n, rows * columns * n});
    kernels.of(l)(&layer, 1, 1, 12);
    for (int64_t at = 0; at < rows * columns; ++at)
      for (int64_t o = 0; o < n; ++o) {
        double exact = 0.0;
        for (int64_t k = 0; k < kernel * kernel; ++k) {
          const int64_t y = at / columns + k / kernel, x = at % columns + k % kernel;
          for (int64_t i = 0; i < n; ++i)
            exact += l.weights[(o * n + i) * kernel * kernel + k] * in[(y * width + x) * n + i];
        }
        if (!(std::abs(out[at * n + o] - exact) < 0.05)) return false;
      }
  }
  return true;
}

}  // namespace
