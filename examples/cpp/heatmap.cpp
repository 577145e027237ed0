#include "heatmap.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace {

// Eleven equidistant colors of "inferno", by S. van der Walt and N. Smith (CC0).
constexpr std::array<std::array<double, 3>, 11> inferno{{{0, 0, 4},
                                                         {22, 11, 57},
                                                         {66, 10, 104},
                                                         {106, 23, 110},
                                                         {147, 38, 103},
                                                         {188, 55, 84},
                                                         {221, 81, 58},
                                                         {243, 120, 25},
                                                         {252, 165, 10},
                                                         {246, 215, 70},
                                                         {252, 255, 164}}};

}  // namespace

Image heatmap(const float* map, std::size_t height, std::size_t width, double threshold) {
    constexpr double least_high = 0.1;
    const double high = threshold > least_high / 2 ? 2 * threshold : least_high;
    Image picture{height, width, {}};
    picture.pixels.reserve(3 * height * width);
    for (std::size_t index = 0; index < height * width; ++index) {
        const double share = std::clamp(static_cast<double>(map[index]) / high, 0.0, 1.0);
        const double level = std::nearbyint(255 * share) / 255 * (inferno.size() - 1);
        const auto left = std::min(static_cast<std::size_t>(level), inferno.size() - 2);
        const double between = level - static_cast<double>(left);
        for (std::size_t channel = 0; channel < 3; ++channel) {
            const double color = (1 - between) * inferno[left][channel] +
                                 between * inferno[left + 1][channel];
            picture.pixels.push_back(static_cast<std::uint8_t>(std::nearbyint(color)));
        }
    }
    return picture;
}
