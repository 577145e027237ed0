// Predicts for one image by the C interface, so that it can be run under an emulator.
//
//     one_image MODEL.native PIXELS HEIGHT WIDTH OUTPUT
//
// PIXELS holds RGB bytes. The output is the score and the combined map, in floats.

#include "efficientad.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

int main(int, char** arguments) {
  const int64_t height = std::atoll(arguments[3]), width = std::atoll(arguments[4]);
  std::vector<uint8_t> pixels(3 * height * width);
  FILE* from = std::fopen(arguments[2], "rb");
  if (!from || std::fread(pixels.data(), 1, pixels.size(), from) != pixels.size()) return 1;
  std::vector<float> found(1 + height * width);
  ead_detector* detector;
  ead_prediction* prediction;
  if (ead_open(arguments[1], 2, &detector) ||
      ead_predict(detector, pixels.data(), height, width, 3 * width, EAD_RGB,
                  &prediction) ||
      ead_map(prediction, EAD_COMBINED, found.data() + 1)) {
    std::fprintf(stderr, "%s\n", ead_message());
    return 2;
  }
  found[0] = static_cast<float>(prediction->score);
  FILE* to = std::fopen(arguments[5], "wb");
  const size_t written = std::fwrite(found.data(), sizeof(float), found.size(), to);
  return std::fclose(to) != 0 || written != found.size();
}
