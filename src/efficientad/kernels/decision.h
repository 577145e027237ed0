// From raw maps to score, decision, regions and maps, as `method` does it in Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "native_file.h"

namespace {

using Map = std::vector<float>;  // (kCells, kCells) or (kInput, kInput)

// The cell before each pixel of an axis, and the share to the next cell.
struct Between {
  std::vector<int64_t> left;
  std::vector<float> share;

  explicit Between(int64_t n_pixels) : left(n_pixels), share(n_pixels) {
    constexpr double first = 16, stride = 4;  // of the cells' centres
    for (int64_t i = 0; i < n_pixels; ++i) {
      const double at = (i + 0.5) * (static_cast<double>(kInput) / n_pixels) - 0.5;
      const double cell = std::clamp((at - first) / stride, 0.0, kCells - 1.0);
      left[i] = std::min(static_cast<int64_t>(cell), kCells - 2);
      share[i] = static_cast<float>(cell - left[i]);
    }
  }
};

// Draws a map of cells on an image.
void place_map(const Map& cells, int64_t height, int64_t width, float* to) {
  const Between down(height), across(width);
  std::vector<float> wide(kCells * width);
  for (int64_t y = 0; y < kCells; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const float* c = cells.data() + y * kCells + across.left[x];
      wide[y * width + x] = c[0] + (c[1] - c[0]) * across.share[x];
    }
  for (int64_t y = 0; y < height; ++y, to += width) {
    const float* row = wide.data() + down.left[y] * width;
    const float share = down.share[y];
    for (int64_t x = 0; x < width; ++x)
      to[x] = row[x] + (row[x + width] - row[x]) * share;
  }
}

// Puts a raw map on the common scale, in place.
void normalize(Map& map, const Scale& scale, const std::vector<uint8_t>& cells) {
  if (!std::isnan(scale.least)) {
    double sum = 0.0;
    int64_t n = 0;
    for (size_t i = 0; i < map.size(); ++i)
      if (cells.empty() || cells[i]) sum += 1.0f / std::max(map[i], 1e-6f), ++n;
    const auto level = static_cast<float>(n / sum);
    const float divisor = std::clamp(level, static_cast<float>(scale.least),
                                     static_cast<float>(scale.greatest));
    for (float& value : map) value /= divisor;
  }
  const auto slope = static_cast<float>(0.1 / (scale.high - scale.low));
  for (float& value : map) value = (value - static_cast<float>(scale.low)) * slope;
}

// The groups that pixels join, as sets of pixels that share a side.
class Groups {
 public:
  explicit Groups(int64_t side)
      : side_(side), root_(side * side, -1), area_(side * side, 0) {}

  bool has(int64_t pixel) const { return root_[pixel] >= 0; }

  int64_t of(int64_t pixel) {
    while (root_[pixel] != pixel) pixel = root_[pixel] = root_[root_[pixel]];
    return pixel;
  }

  // Returns the area of the group that the pixel then belongs to.
  int64_t add(int64_t pixel) {
    root_[pixel] = pixel;
    area_[pixel] = 1;
    const int64_t x = pixel % side_;
    if (x > 0) join(pixel, pixel - 1);
    if (x + 1 < side_) join(pixel, pixel + 1);
    if (pixel >= side_) join(pixel, pixel - side_);
    if (pixel + side_ < side_ * side_) join(pixel, pixel + side_);
    return area_[of(pixel)];
  }

 private:
  void join(int64_t one, int64_t other) {
    if (!has(other)) return;
    const int64_t a = of(one), b = of(other);
    if (a == b) return;
    root_[std::max(a, b)] = std::min(a, b);
    area_[std::min(a, b)] += area_[std::max(a, b)];
  }

  int64_t side_;
  std::vector<int64_t> root_, area_;
};

bool is_plain(const Model& m) { return m.rows == 0 && m.min_area == 0; }

bool is_inside(const Model& m, int64_t pixel) { return !m.rows || m.inside[pixel]; }

int64_t least_pixels(const Model& m) {
  const double n = std::ceil(m.min_area * (kInput * kInput) - 1e-6);
  return std::max<int64_t>(1, static_cast<int64_t>(n));
}

// The highest level with a group of the least area in the region of interest.
float score_of(const Model& m, const Map& combined) {
  if (is_plain(m)) return *std::max_element(combined.begin(), combined.end());
  Map values(kInput * kInput);
  place_map(combined, kInput, kInput, values.data());
  std::vector<int64_t> order;
  for (int64_t i = 0; i < kInput * kInput; ++i)
    if (is_inside(m, i)) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  Groups groups(kInput);
  for (const int64_t pixel : order)
    if (groups.add(pixel) >= least_pixels(m)) return values[pixel];
  return values[order.back()];
}

// Connected pixels above a level, the largest group first.
std::vector<ead_region> regions_of(const Model& m, const Map& combined, double level,
                                   int64_t height, int64_t width) {
  Map values(kInput * kInput);
  place_map(combined, kInput, kInput, values.data());
  Groups groups(kInput);
  for (int64_t i = 0; i < kInput * kInput; ++i)
    if (is_inside(m, i) && static_cast<double>(values[i]) > level) groups.add(i);
  struct Sums {
    int64_t n = 0, left = kInput, right = 0, top = kInput, bottom = 0;
    double x = 0, y = 0, value = 0, peak = -INFINITY;
  };
  std::vector<Sums> found(kInput * kInput);  // at the first pixel of each group
  for (int64_t i = 0; i < kInput * kInput; ++i) {
    if (!groups.has(i)) continue;
    Sums& s = found[groups.of(i)];
    const int64_t x = i % kInput, y = i / kInput;
    s.left = std::min(s.left, x), s.right = std::max(s.right, x + 1);
    s.top = std::min(s.top, y), s.bottom = std::max(s.bottom, y + 1);
    ++s.n, s.x += x + 0.5, s.y += y + 0.5, s.value += values[i];
    s.peak = std::max<double>(s.peak, values[i]);
  }
  const double down = static_cast<double>(height) / kInput;
  const double across = static_cast<double>(width) / kInput;
  std::vector<ead_region> regions;
  for (const Sums& s : found) {
    if (s.n == 0 || s.n < least_pixels(m)) continue;
    const double share = static_cast<double>(s.n) / (kInput * kInput);
    ead_region r;
    r.x = static_cast<int64_t>(s.left * across);
    r.y = static_cast<int64_t>(s.top * down);
    r.width = std::min<int64_t>(width, std::ceil(s.right * across)) - r.x;
    r.height = std::min<int64_t>(height, std::ceil(s.bottom * down)) - r.y;
    r.area = std::nearbyint(share * height * width * 100) / 100;
    r.area_mm2 = share * m.image_mm2;
    r.centroid_x = s.x / s.n * across - 0.5;
    r.centroid_y = s.y / s.n * down - 0.5;
    r.peak = s.peak;
    r.mean = s.value / s.n;
    regions.push_back(r);
  }
  std::stable_sort(regions.begin(), regions.end(),
                   [](const ead_region& a, const ead_region& b) {
                     return a.area != b.area ? a.area > b.area : a.peak > b.peak;
                   });
  return regions;
}

// Means of features (side, side, channels) within cells, relative to those of all cells.
std::vector<float> pooled(const Model& m, const float* features) {
  constexpr int64_t n_cells = kPooled * kPooled;
  const Place& at = m.hidden;
  const int64_t channels = at.channels, step = m.cell_step;
  std::vector<float> means(n_cells * channels), rows(at.width * channels);
  std::vector<float> total(channels);
  for (int64_t i = 0; i < kPooled; ++i) {
    std::fill(rows.begin(), rows.end(), 0.0f);
    for (int64_t y = 0; y < m.cell_size; ++y)
      for (int64_t x = 0; x < at.width; ++x) {
        const float* from = features + (i * step + y) * at.row + x * at.pixel;
        for (int64_t c = 0; c < channels; ++c) rows[x * channels + c] += from[c];
      }
    for (int64_t j = 0; j < kPooled; ++j) {
      float* mean = means.data() + (i * kPooled + j) * channels;
      for (int64_t x = 0; x < m.cell_size; ++x)
        for (int64_t c = 0; c < channels; ++c)
          mean[c] += rows[(j * step + x) * channels + c];
      for (int64_t c = 0; c < channels; ++c) {
        mean[c] /= m.cell_size * m.cell_size;
        total[c] += mean[c];
      }
    }
  }
  for (size_t i = 0; i < means.size(); ++i) means[i] -= total[i % channels] / n_cells;
  return means;
}

// What the composition adds to the score.
float points_of(const Model& m, const float* features) {
  if (m.mean.empty()) return 0.0f;
  const std::vector<float> means = pooled(m, features);
  const int64_t in = m.hidden.channels, n = m.mean.size();
  const int64_t out = static_cast<int64_t>(m.head.size()) / in;
  std::vector<double> centred(n);
  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const float *cell = means.data() + i / out * in, *weight = m.head.data() + i % out * in;
    double sum = 0.0;
    for (int64_t c = 0; c < in; ++c) sum += static_cast<double>(cell[c]) * weight[c];
    centred[i] = (sum - m.mean[i]) * m.scale[i];
    squares += centred[i] * centred[i];
  }
  for (size_t axis = 0; axis < m.axes.size(); axis += n) {
    const double usual =
        std::inner_product(centred.begin(), centred.end(), m.axes.data() + axis, 0.0);
    squares -= usual * usual;
  }
  const double distance = std::sqrt(std::max(squares, 0.0));
  return static_cast<float>((distance - m.center) * m.slope);
}

// Share of normal images with at least this score.
double p_value(const Model& m, double score) {
  const auto& scores = m.normal_scores;
  const auto above = scores.end() - std::lower_bound(scores.begin(), scores.end(), score);
  return (above + 1.0) / (scores.size() + 1.0);
}

// The area has the aspect of the images it was drawn for.
void require_aspect(const Model& m, int64_t height, int64_t width) {
  if (m.rows == 0) return;
  const double ratio = static_cast<double>(height) * m.columns / (1.0 * width * m.rows);
  // The area is stored in whole pixels.
  if (std::abs(std::log(ratio)) <= 0.02 + 0.5 / std::min(m.rows, m.columns)) return;
  char text[256];
  std::snprintf(text, sizeof text,
                "the region of interest was drawn for images of %.3g times their height, "
                "got one of %lld x %lld pixels; use such images, or set another region",
                static_cast<double>(m.columns) / m.rows, static_cast<long long>(width),
                static_cast<long long>(height));
  throw Error{EAD_BAD_IMAGE, text};
}

}  // namespace
