// Vectors of the processor at hand, and products of matrices made of them.
#pragma once

#include <cstdint>

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

inline float sum_of(Lanes v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
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

}  // namespace
