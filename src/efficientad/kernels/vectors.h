// Vectors of the processor at hand, and products of matrices made of them.
#pragma once

#include <cstdint>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

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
// Not a number stays one: a map of it is refused, one of zeros would look normal.
inline Lanes relu(Lanes v) { return v <= 0.0f ? Lanes{} : v; }

inline float sum_of(Lanes v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

constexpr int64_t kSteps = 8;  // of a product between two fetches

// Memory that is needed next, fetched line by line while a product goes on.
struct Next {
  const char* a;
  const char* b;
};

// c (ROWS x panel) = a (ROWS x k) b (k x panel). Of what is next, LINES_A and LINES_B
// lines are fetched at each turn of the loop.
template <int ROWS, int LINES_A, int LINES_B>
inline void multiply(const float* __restrict a, int64_t lda, const float* __restrict b,
                     int64_t k, float* __restrict c, int64_t ldc, Next next) {
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
#pragma GCC unroll 16
    for (int line = 0; line < LINES_A; ++line)
      __builtin_prefetch(next.a + line * kLine, 0, 2);
#pragma GCC unroll 16
    for (int line = 0; line < LINES_B; ++line)
      __builtin_prefetch(next.b + line * kLine, 0, 2);
    next.a += LINES_A * kLine;
    next.b += LINES_B * kLine;
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

template <int ROWS, int LINES_A, int LINES_B, class... More>
inline void multiply_rest(int64_t rows, More... more) {
  if (rows == ROWS)
    multiply<ROWS, LINES_A, LINES_B>(more...);
  else if constexpr (ROWS > 1)
    multiply_rest<ROWS - 1, LINES_A, LINES_B>(rows, more...);
}

// c (rows x panel) = a (rows x k) b (k x panel).
template <int LINES_A, int LINES_B>
void panel_product(const float* a, int64_t lda, int64_t rows, const float* b, int64_t k,
                   float* c, int64_t ldc, Next next) {
  const int64_t turns = k / kSteps * kLine;
  for (int64_t i = 0; i < rows; i += kRows) {
    if (rows - i >= kRows)
      multiply<kRows, LINES_A, LINES_B>(a + i * lda, lda, b, k, c + i * ldc, ldc, next);
    else
      multiply_rest<kRows - 1, LINES_A, LINES_B>(rows - i, a + i * lda, lda, b, k,
                                                 c + i * ldc, ldc, next);
    next.a += LINES_A * turns;
    next.b += LINES_B * turns;
  }
}

// c (rows x n) = a (rows x k) b, b packed in panels of kPanel columns. What lies behind
// a and b, the operands of the next product, is fetched meanwhile.
void product(const float* a, int64_t lda, int64_t rows, const float* b, int64_t k,
             int64_t n, float* c, int64_t ldc) {
  Next next{reinterpret_cast<const char*>(a + rows * lda), nullptr};
  for (int64_t j = 0; j < n; j += kPanel, b += k * kPanel) {
    next.b = reinterpret_cast<const char*>(b + k * kPanel);
    panel_product<1, 1>(a, lda, rows, b, k, c + j, ldc, next);
    next.a += (rows + kRows - 1) / kRows * (k / kSteps) * kLine;
  }
}

// The same with operands rounded to bf16 and sums in fp32, on processors that multiply
// two such pairs where they multiply one pair of floats.
#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;

struct Pair {
  uint16_t first, second;  // the upper halves of two floats
};

inline void round_to_pairs(const float* from, int64_t n_pairs, Pair* to) {
  for (int64_t i = 0; i < n_pairs; i += kLanes) {
    const int64_t rest = 2 * (n_pairs - i);
    const auto mask = [](int64_t n) {
      return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
    };
    const __m512 low = _mm512_maskz_loadu_ps(mask(rest), from + 2 * i);
    const __m512 high =
        _mm512_maskz_loadu_ps(mask(rest - kLanes), from + 2 * i + kLanes);
    _mm512_mask_storeu_epi32(to + i, mask(n_pairs - i),
                             (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

template <int ROWS>
inline void multiply_pairs(const Pair* __restrict a, int64_t lda,
                           const Pair* __restrict b, int64_t k, float* __restrict c,
                           int64_t ldc) {
  __m512 sum[ROWS][2];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; ++i, b += kPanel) {
    const auto left = (__m512bh)_mm512_loadu_si512(b);
    const auto right = (__m512bh)_mm512_loadu_si512(b + kLanes);
    __builtin_prefetch(b + 8 * kPanel, 0, 3);
    __builtin_prefetch(b + 8 * kPanel + kLanes, 0, 3);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      int bits;
      __builtin_memcpy(&bits, a + r * lda + i, sizeof bits);
      const auto value = (__m512bh)_mm512_set1_epi32(bits);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], value, left);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], value, right);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    _mm512_storeu_ps(c + r * ldc, sum[r][0]);
    _mm512_storeu_ps(c + r * ldc + kLanes, sum[r][1]);
  }
}

template <int ROWS>
inline void multiply_rest_of_pairs(int64_t rows, const Pair* a, int64_t lda,
                                   const Pair* b, int64_t k, float* c, int64_t ldc) {
  if (rows == ROWS)
    multiply_pairs<ROWS>(a, lda, b, k, c, ldc);
  else if constexpr (ROWS > 1)
    multiply_rest_of_pairs<ROWS - 1>(rows, a, lda, b, k, c, ldc);
}

// c (rows x n) = a (rows x k pairs) b, b packed in panels of kPanel columns.
void product(const Pair* a, int64_t rows, const Pair* b, int64_t k, int64_t n, float* c) {
  for (int64_t j = 0; j < n; j += kPanel, b += k * kPanel)
    for (int64_t i = 0; i < rows; i += kRows)
      if (rows - i >= kRows)
        multiply_pairs<kRows>(a + i * k, k, b, k, c + i * n + j, n);
      else
        multiply_rest_of_pairs<kRows - 1>(rows - i, a + i * k, k, b, k, c + i * n + j, n);
}
#else
constexpr bool kHasPairs = false;
#endif

}  // namespace
