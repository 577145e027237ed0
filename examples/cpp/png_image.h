// PNG files as the Python package reads them: RGB, 8 bits, nothing scaled or blended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Limits of the Python package and its graphs.
constexpr std::size_t min_side = 8;
constexpr std::size_t max_side = 40'000;
constexpr std::size_t max_pixels = 200'000'000;

struct Image {
    std::size_t height = 0;
    std::size_t width = 0;
    std::vector<std::uint8_t> pixels;  // height x width x 3
};

// Gray and palette become RGB, an alpha channel is dropped, 16 bits become the upper 8.
// Throws std::runtime_error if the file is missing, damaged, not PNG, too small or too large.
Image read_png(const std::string& path);

// Throws std::runtime_error if the file cannot be written; an old file is kept.
void write_png(const std::string& path, const Image& image);
