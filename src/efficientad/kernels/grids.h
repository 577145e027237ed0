// What a layer reads and writes, as layers.py hands it over, and a thread's own memory.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

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

[[maybe_unused]] Scratch& scratch() {
  thread_local Scratch memory;
  return memory;
}

}  // namespace
