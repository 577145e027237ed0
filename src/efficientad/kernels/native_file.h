// A file of `efficientad export --format native`: weights, steps and decision of a
// detector, as exports/native_file.py writes them. Whatever the bytes are, what is read
// lies within its bounds: steps name grids within buffers, and layers that exist.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "efficientad.h"
#include "grids.h"

namespace {

struct Error {
  ead_code code;
  std::string text;
};

constexpr int64_t kInput = 256, kCells = 56, kPooled = 4;

// A part of a buffer of floats, with channels next to each other.
struct Place {
  int64_t buffer, offset, height, width, channels, pixel, row;
};

struct Described {  // a layer
  int64_t in, out, kernel, stride, padding, relu, finish, tile, flat;
  std::vector<double> weights;
  std::vector<float> bias;
};

struct Use {  // of a layer
  int64_t layer;
  Place input, output, residual;
  bool has_residual;
};

struct Step {
  std::vector<Use> uses;  // empty: the input is resized to the output
  int64_t block;
  Place input, output;
};

struct Scale {
  double low, high, least, greatest;  // the last two are NaN where maps are not divided
};

struct Model {
  std::vector<int64_t> buffers;  // floats
  std::array<float, 3> margin;   // what the first buffer is filled with
  Place image, hidden;
  std::array<Place, 2> maps;  // local and global
  std::vector<Described> layers;
  std::vector<Step> steps;

  // The term of the composition, of cells of hidden features; no mean where there is none.
  int64_t cell_size, cell_step;
  std::vector<float> head, mean, scale, axes;
  double center, slope;

  std::array<Scale, 2> scales;
  bool score_has_map;
  double threshold, unsure;  // unsure: NaN where no image is
  std::vector<double> normal_scores;

  // Region of interest: its own size, and which cells and pixels are inside.
  int64_t rows, columns;
  std::vector<uint8_t> cells, inside;
  double min_area, image_mm2;
};

class Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}

  template <class T>
  T value() {
    T found;
    std::memcpy(&found, take(sizeof found), sizeof found);
    return found;
  }

  int64_t count(int64_t least, int64_t greatest) {
    const auto n = value<int64_t>();
    require(n >= least && n <= greatest);
    return n;
  }

  template <class T>
  std::vector<T> array() {
    const int64_t n = count(0, left() / static_cast<int64_t>(sizeof(T)));
    std::vector<T> found(n);
    if (n) std::memcpy(found.data(), take(n * sizeof(T)), n * sizeof(T));
    if constexpr (!std::is_integral_v<T>)
      for (const T each : found) require(std::isfinite(each));
    return found;
  }

  template <class T>
  std::vector<T> array(int64_t n) {
    auto found = array<T>();
    require(static_cast<int64_t>(found.size()) == n);
    return found;
  }

  double finite() {
    const auto found = value<double>();
    require(std::isfinite(found));
    return found;
  }

  int64_t left() const { return static_cast<int64_t>(bytes_.size()) - at_; }

  static void require(bool is_right) {
    if (!is_right) throw Error{EAD_BAD_FILE, ""};
  }

 private:
  const uint8_t* take(int64_t n) {
    require(n <= left());
    at_ += n;
    return bytes_.data() + at_ - n;
  }

  const std::vector<uint8_t>& bytes_;
  int64_t at_ = 0;
};

constexpr int64_t kMost = 1 << 20;

Place read_place(Reader& in, const Model& m) {
  Place p;
  p.buffer = in.count(0, m.buffers.size() - 1);
  p.offset = in.count(0, m.buffers[p.buffer]);
  p.height = in.count(1, kMost);
  p.width = in.count(1, kMost);
  p.channels = in.count(1, kMost);
  p.pixel = in.count(1, kMost);
  p.row = in.count(1, int64_t{1} << 30);
  const int64_t last = (p.height - 1) * p.row + (p.width - 1) * p.pixel + p.channels;
  in.require(p.offset + last <= m.buffers[p.buffer]);
  return p;
}

Described read_layer(Reader& in) {
  Described l;
  l.in = in.count(1, kMost);
  l.out = in.count(1, kMost);
  l.kernel = in.count(1, 16);
  l.stride = in.count(1, 16);
  l.padding = in.count(0, 16);
  l.relu = in.count(0, 1);
  l.finish = in.count(kStore, kMeanSquare);
  l.tile = in.count(0, 8);
  l.flat = in.count(0, 1);
  const int64_t n = l.out * l.in * l.kernel * l.kernel;
  if (in.count(0, 1)) {  // in single precision
    const std::vector<float> single = in.array<float>(n);
    l.weights.assign(single.begin(), single.end());
  } else {
    l.weights = in.array<double>(n);
  }
  l.bias = in.array<float>(l.out);
  const bool has_form = l.tile == 6 ? l.kernel == 3 || l.kernel == 4
                                    : (l.tile == 7 || l.tile == 8) && l.kernel == 4;
  in.require(l.tile == 0 ? !l.flat : has_form && l.stride == 1);
  in.require(!l.flat || (l.tile == 6 && l.kernel == 4 && l.finish != kMeanSquare));
  in.require(l.finish != kPool || l.tile % 2 == 0);
  return l;
}

int64_t size_after(const Described& l, int64_t size) {
  const int64_t full = (size + 2 * l.padding - l.kernel) / l.stride + 1;
  return l.finish == kPool ? full / 2 : full;
}

Use read_use(Reader& in, const Model& m) {
  Use u;
  u.layer = in.count(0, static_cast<int64_t>(m.layers.size()) - 1);
  const Described& l = m.layers[u.layer];
  u.input = read_place(in, m);
  u.output = read_place(in, m);
  u.has_residual = in.count(0, 1);
  if (u.has_residual) u.residual = read_place(in, m);
  const Place &from = u.input, &to = u.output, &more = u.residual;
  in.require(from.channels == l.in && to.channels == (l.finish == kMeanSquare ? 1 : l.out));
  in.require(std::min(from.height, from.width) + 2 * l.padding >= l.kernel);
  in.require(to.height == size_after(l, from.height));
  in.require(to.width == size_after(l, from.width));
  if (u.has_residual)
    in.require(l.tile == 0 && more.height == to.height && more.width == to.width &&
               more.channels == l.out && more.pixel == l.out &&
               more.row == l.out * more.width);
  return u;
}

Step read_step(Reader& in, const Model& m) {
  Step s;
  const int64_t n = in.count(0, 16);
  if (n == 0) {
    s.input = read_place(in, m);
    s.output = read_place(in, m);
    in.require(s.input.channels == s.output.channels);
    return s;
  }
  s.block = in.count(1, 4096);
  for (int64_t i = 0; i < n; ++i) {
    s.uses.push_back(read_use(in, m));
    const Described &a = m.layers[s.uses[0].layer], &b = m.layers[s.uses[i].layer];
    in.require(a.tile == b.tile && a.kernel == b.kernel && a.flat == b.flat);
  }
  return s;
}

void read_networks(Reader& in, Model& m) {
  m.buffers = in.array<int64_t>();
  in.require(!m.buffers.empty() && m.buffers.size() <= 64);
  for (const int64_t n : m.buffers) in.require(n >= 1 && n <= int64_t{1} << 26);
  for (float& value : m.margin) value = static_cast<float>(in.finite());
  m.image = read_place(in, m);
  in.require(m.image.height == kInput && m.image.width == kInput);
  in.require(m.image.channels == 3 && m.image.pixel == 3);
  for (Place& map : m.maps) {
    map = read_place(in, m);
    in.require(map.height == kCells && map.width == kCells && map.channels == 1);
  }
  m.hidden = read_place(in, m);
  for (int64_t n = in.count(1, 256); n > 0; --n) m.layers.push_back(read_layer(in));
  for (int64_t n = in.count(1, 256); n > 0; --n) m.steps.push_back(read_step(in, m));
}

void read_term(Reader& in, Model& m) {
  m.cell_size = in.count(1, kMost);
  m.cell_step = in.count(1, kMost);
  in.require((kPooled - 1) * m.cell_step + m.cell_size <=
             std::min(m.hidden.height, m.hidden.width));
  m.mean = in.array<float>();
  const int64_t n = m.mean.size();
  m.scale = in.array<float>(n);
  m.axes = in.array<float>();
  m.head = in.array<float>();
  m.center = in.finite();
  m.slope = in.finite();
  if (n == 0) return;
  in.require(n % (kPooled * kPooled) == 0 && m.axes.size() % n == 0);
  in.require(static_cast<int64_t>(m.head.size()) ==
             n / (kPooled * kPooled) * m.hidden.channels);
}

void read_decision(Reader& in, Model& m) {
  for (Scale& s : m.scales) {
    s = {in.finite(), in.finite(), in.value<double>(), in.value<double>()};
    in.require(s.low < s.high);
    in.require(std::isnan(s.least) || (s.least > 0 && s.least <= s.greatest));
  }
  m.score_has_map = in.count(0, 1);
  m.threshold = in.finite();
  m.unsure = in.value<double>();
  m.normal_scores = in.array<double>();
  in.require(!m.normal_scores.empty());
  m.rows = in.count(0, kMost);
  m.columns = in.count(0, kMost);
  m.cells = in.array<uint8_t>(m.rows ? kCells * kCells : 0);
  m.inside = in.array<uint8_t>(m.rows ? kInput * kInput : 0);
  in.require((m.rows == 0) == (m.columns == 0));
  if (m.rows) {
    in.require(std::memchr(m.cells.data(), 1, m.cells.size()) != nullptr);
    in.require(std::memchr(m.inside.data(), 1, m.inside.size()) != nullptr);
  }
  m.min_area = in.finite();
  in.require(m.min_area >= 0 && m.min_area <= 1);
  m.image_mm2 = in.value<double>();
}

uint32_t crc32(const uint8_t* bytes, size_t n) {  // as of zlib
  std::array<uint32_t, 256> table;
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
    table[i] = c;
  }
  uint32_t crc = ~0u;
  for (size_t i = 0; i < n; ++i) crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 255];
  return ~crc;
}

std::vector<uint8_t> read_bytes(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                   std::fclose);
  const auto unread = [&path] {
    return Error{EAD_BAD_FILE, "cannot read " + path + " (" + std::strerror(errno) +
                                   "); check path and permissions"};
  };
  if (!file && errno != ENOENT) throw unread();
  if (!file)
    throw Error{EAD_BAD_FILE, "no model file at " + path +
                                  ": give one that `efficientad export` has written with "
                                  "the ending .native"};
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> part(1 << 20);
  for (size_t n; (n = std::fread(part.data(), 1, part.size(), file.get())) > 0;)
    bytes.insert(bytes.end(), part.begin(), part.begin() + n);
  if (std::ferror(file.get())) throw unread();
  return bytes;
}

constexpr int64_t kFormat = 1;

Model read_model(const std::string& path) {
  const std::vector<uint8_t> bytes = read_bytes(path);
  const Error foreign{EAD_BAD_FILE, path + " is not a native export of efficientad, or a "
                                           "damaged one; copy or export it again"};
  try {
    Reader in(bytes);
    in.require(in.value<std::array<char, 8>>() ==
               std::array<char, 8>{'E', 'A', 'D', 'N', 'A', 'T', 'I', 'V'});
    const auto format = in.value<int64_t>();
    if (format != kFormat)
      throw Error{EAD_BAD_FILE, path + " has export format " + std::to_string(format) +
                                    ", this library reads " + std::to_string(kFormat) +
                                    "; export it again, or update the library"};
    const auto checksum = in.value<int64_t>();
    in.require(checksum == crc32(bytes.data() + bytes.size() - in.left(), in.left()));
    Model model;
    read_networks(in, model);
    read_term(in, model);
    read_decision(in, model);
    in.require(in.left() == 0);
    return model;
  } catch (const Error& error) {
    throw error.text.empty() ? foreign : error;
  }
}

}  // namespace
