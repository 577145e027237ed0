// Computes one layer from a file, so that it can be run under an emulator.
//
// The file holds int64: kernel, stride, padding, relu, finish, tile (0: patches), flat,
// n, height, width, in, out height, out width, out; then the weights in double precision;
// then floats: bias, input. The output is written behind each other to the second file.

#include <cstdio>
#include <vector>

#include "layers.cpp"

template <class T>
static std::vector<T> read(FILE* file, size_t n) {
  std::vector<T> values(n);
  if (std::fread(values.data(), sizeof(T), n, file) != n) std::abort();
  return values;
}

static Grid dense(std::vector<float>& data, int64_t n, int64_t height, int64_t width,
                  int64_t channels) {
  return Grid{data.data(),      n, height, width, channels, width * channels,
              height * width * channels};
}

int main(int, char** paths) {
  FILE* from = std::fopen(paths[1], "rb");
  int64_t v[14];
  if (!from || std::fread(v, sizeof(v), 1, from) != 1) return 1;
  const int64_t kernel = v[0], tile = v[5], flat = v[6];
  const int64_t n = v[7], in = v[10], out = v[13];
  const int64_t side = tile ? tile + kernel - 1 : kernel;
  const auto given = read<double>(from, kernel * kernel * in * out);
  std::vector<float> weights(side * (flat ? kernel : side) * in * out);
  pack_native(given.data(), out, in, kernel, tile, flat, weights.data(), 2);
  const auto bias = read<float>(from, out);
  auto input = read<float>(from, n * v[8] * v[9] * in);
  const int64_t channels = v[4] == kMeanSquare ? 1 : out;
  std::vector<float> output(n * v[11] * v[12] * channels);
  const Layer layer{dense(input, n, v[8], v[9], in),
                    dense(output, n, v[11], v[12], channels),
                    weights.data(),
                    bias.data(),
                    nullptr,
                    in, out, kernel, v[1], v[2], v[3], v[4]};
  if (tile == 0)
    patches_native(&layer, 1, 2, 12);
  else if (flat)
    strips_6_4_native(&layer, 1, 2, 12);
  else if (tile == 7)
    winograd_7_4_native(&layer, 1, 2, 12);
  else if (tile == 8)
    winograd_8_4_native(&layer, 1, 2, 12);
  else
    (kernel == 3 ? winograd_6_3_native : winograd_6_4_native)(&layer, 1, 2, 12);
  FILE* to = std::fopen(paths[2], "wb");
  const size_t written = std::fwrite(output.data(), sizeof(float), output.size(), to);
  return std::fclose(to) != 0 || written != output.size();
}
