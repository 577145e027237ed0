// An anomaly map in the colors of the Python package.
#pragma once

#include <cstddef>

#include "png_image.h"

// The color scale depends only on the detector: 0 is black, the threshold is half way.
Image heatmap(const float* map, std::size_t height, std::size_t width, double threshold);
