// Resizing of bytes to the networks' input by Pillow's bilinear filter, to the bit:
// columns first, then rows, each with weights in whole numbers and rounded to bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int kWeightBits = 22;  // as of Pillow

// The inputs of one output and their weights, which add up to one.
struct Taps {
  int64_t first;
  std::vector<int32_t> weights;
};

std::vector<Taps> taps_of(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / to, reach = std::max(scale, 1.0);
  std::vector<Taps> found(to);
  std::vector<double> shares;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (i + 0.5) * scale, inverse = 1.0 / reach;
    const auto first = std::max<int64_t>(0, static_cast<int64_t>(center - reach + 0.5));
    const auto end = std::min<int64_t>(from, static_cast<int64_t>(center + reach + 0.5));
    shares.clear();
    double sum = 0.0;
    for (int64_t x = first; x < end; ++x) {
      const double distance = std::abs((x - center + 0.5) * inverse);
      shares.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
      sum += shares.back();
    }
    found[i].first = first;
    for (const double share : shares)
      found[i].weights.push_back(
          static_cast<int32_t>(0.5 + share / sum * (1 << kWeightBits)));
  }
  return found;
}

inline uint8_t as_byte(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

// Where the colors of an image are.
struct Pixels {
  const uint8_t* data;
  int64_t height, width, row, pixel;  // distances in bytes
  int64_t red, green, blue;
};

// Writes (side, side, 3), RGB.
void resize_pixels(const Pixels& from, int64_t side, uint8_t* to) {
  constexpr int32_t half = 1 << (kWeightBits - 1);
  const std::vector<Taps> across = taps_of(from.width, side);
  const std::vector<Taps> down = taps_of(from.height, side);
  std::vector<uint8_t> narrow(from.height * side * 3);
  uint8_t* out = narrow.data();
  for (int64_t y = 0; y < from.height; ++y)
    for (const Taps& taps : across) {
      int32_t red = half, green = half, blue = half;
      const uint8_t* p = from.data + y * from.row + taps.first * from.pixel;
      for (const int32_t weight : taps.weights) {
        red += p[from.red] * weight;
        green += p[from.green] * weight;
        blue += p[from.blue] * weight;
        p += from.pixel;
      }
      *out++ = as_byte(red), *out++ = as_byte(green), *out++ = as_byte(blue);
    }
  std::vector<int32_t> sums(side * 3);
  for (int64_t y = 0; y < side; ++y) {
    std::fill(sums.begin(), sums.end(), half);
    const uint8_t* p = narrow.data() + down[y].first * side * 3;
    for (const int32_t weight : down[y].weights)
      for (int32_t& sum : sums) sum += *p++ * weight;
    for (const int32_t sum : sums) *to++ = as_byte(sum);
  }
}

}  // namespace
