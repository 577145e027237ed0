// The layers for the processor at hand. One library has them once for each instruction
// set; what includes this file is compiled once, for any processor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "native_file.h"

namespace {

// The functions of `layers.cpp` for one instruction set.
struct Kernels {
  using Run = void (*)(const void* layers, int64_t n, int64_t threads, int64_t block);
  const char* name;
  const char* flags;  // of /proc/cpuinfo that it needs
  int64_t (*lanes)();
  int64_t (*panel)();
  void (*pack)(const double*, int64_t out, int64_t in, int64_t kernel, int64_t tile,
               int64_t flat, float* to, int64_t threads);
  Run patches, strips_6_4, winograd_6_3, winograd_6_4, winograd_7_4, winograd_8_4;
  void (*to_float)(const uint8_t* pixels, const void* to, int64_t threads);
  void (*resize)(const void* from, const void* to, int64_t channels, int64_t threads);

  Run of(const Described& l) const {
    if (l.tile == 0) return patches;
    if (l.flat) return strips_6_4;
    if (l.tile == 6) return l.kernel == 3 ? winograd_6_3 : winograd_6_4;
    return l.tile == 7 ? winograd_7_4 : winograd_8_4;
  }
};

}  // namespace

#define RUN(name, isa) \
  void name##_##isa(const void* layers, int64_t n, int64_t threads, int64_t block);
#define DECLARE(isa)                                                                    \
  extern "C" {                                                                          \
  int64_t lanes_##isa();                                                                \
  int64_t panel_##isa();                                                                \
  void pack_##isa(const double*, int64_t, int64_t, int64_t, int64_t, int64_t, float*,   \
                  int64_t);                                                             \
  void to_float_##isa(const uint8_t*, const void*, int64_t);                            \
  void resize_##isa(const void*, const void*, int64_t, int64_t);                        \
  RUN(patches, isa) RUN(strips_6_4, isa) RUN(winograd_6_3, isa) RUN(winograd_6_4, isa)  \
  RUN(winograd_7_4, isa) RUN(winograd_8_4, isa)                                         \
  }
#define TABLE(isa, flags)                                                               \
  Kernels {                                                                             \
    #isa, flags, lanes_##isa, panel_##isa, pack_##isa, patches_##isa, strips_6_4_##isa, \
        winograd_6_3_##isa, winograd_6_4_##isa, winograd_7_4_##isa, winograd_8_4_##isa, \
        to_float_##isa, resize_##isa                                                    \
  }

// As INSTRUCTION_SETS of prebuilt.py, the best set first.
#define AVX2 "avx2 bmi1 bmi2 f16c fma movbe"
#define AVX512 AVX2 " avx512f avx512bw avx512cd avx512dq avx512vl"
#if defined(EFFICIENTAD_NATIVE)  // built for this processor alone
DECLARE(native)
#define TABLES TABLE(native, "")
#elif defined(__x86_64__)
DECLARE(avx512bf16)
DECLARE(avx512)
DECLARE(avx2)
DECLARE(plain)
#define TABLES                                                                      \
  TABLE(avx512bf16, AVX512 " avx512_bf16"), TABLE(avx512, AVX512), TABLE(avx2, AVX2), \
      TABLE(plain, "")
#else
DECLARE(plain)
#define TABLES TABLE(plain, "")
#endif

namespace {

// The flags that all processors have, each between spaces.
std::string processor_flags() {
  std::string all;
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/cpuinfo", "r"),
                                                   std::fclose);
  char* line = nullptr;
  size_t size = 0;
  while (file && getline(&line, &size, file.get()) > 0) {
    if (std::strncmp(line, "flags", 5) != 0) continue;
    std::string flags = std::string(line) + ' ';
    std::replace_if(flags.begin(), flags.end(), [](char c) { return c <= ' '; }, ' ');
    std::string both = " ";
    for (size_t at = 0, end; (end = flags.find(' ', at)) != flags.npos; at = end + 1) {
      const std::string flag = flags.substr(at, end - at) + ' ';
      if (all.empty() || all.find(' ' + flag) != all.npos) both += flag;
    }
    all = both;
  }
  std::free(line);
  return all;
}

const Kernels& best_kernels() {
  static const Kernels tables[] = {TABLES};
  static const Kernels& best = []() -> const Kernels& {
    const std::string has = processor_flags();
    for (const Kernels& k : tables) {
      std::string needed = k.flags;
      bool is_whole = true;
      while (!needed.empty()) {
        const size_t end = std::min(needed.find(' '), needed.size());
        is_whole &= has.find(' ' + needed.substr(0, end) + ' ') != has.npos;
        needed.erase(0, end + 1);
      }
      if (is_whole) return k;
    }
    return tables[0];  // the last one needs nothing, so this is not reached
  }();
  return best;
}

}  // namespace
