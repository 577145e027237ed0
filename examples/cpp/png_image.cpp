#include "png_image.h"

#include <csetjmp>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include <png.h>

namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File opened(const std::string& path, const char* mode) {
    File file(std::fopen(path.c_str(), mode), &std::fclose);
    if (!file) {
        throw std::runtime_error("cannot open " + path + "; check path and permissions");
    }
    return file;
}

// What is wrong is told once, by whoever asked for the image.
[[noreturn]] void leave(png_structp png, png_const_charp) { png_longjmp(png, 1); }
void ignore(png_structp, png_const_charp) {}

// libpng leaves by longjmp, which runs no destructor: this frame has none.
bool decoded(png_structp png, png_infop info, std::FILE* file) {
    if (setjmp(png_jmpbuf(png))) {
        return false;
    }
    png_init_io(png, file);
    png_read_png(png, info,
                 PNG_TRANSFORM_EXPAND | PNG_TRANSFORM_STRIP_16 |
                     PNG_TRANSFORM_STRIP_ALPHA | PNG_TRANSFORM_GRAY_TO_RGB,
                 nullptr);
    return true;
}

}  // namespace

Image read_png(const std::string& path) {
    const File file = opened(path, "rb");
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, leave, ignore);
    png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
    if (info == nullptr || !decoded(png, info, file.get())) {
        png_destroy_read_struct(&png, &info, nullptr);
        throw std::runtime_error(path + " is damaged or no PNG file; convert it to PNG");
    }
    Image image;
    image.height = png_get_image_height(png, info);
    image.width = png_get_image_width(png, info);
    const std::size_t row_size = 3 * image.width;
    if (png_get_rowbytes(png, info) != row_size) {
        png_destroy_read_struct(&png, &info, nullptr);
        throw std::runtime_error(path + " is not an image of RGB colors; convert it");
    }
    image.pixels.reserve(image.height * row_size);
    png_bytepp rows = png_get_rows(png, info);
    for (std::size_t row = 0; row < image.height; ++row) {
        image.pixels.insert(image.pixels.end(), rows[row], rows[row] + row_size);
    }
    png_destroy_read_struct(&png, &info, nullptr);
    return image;
}

void write_png(const std::string& path, const Image& image) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    png.width = static_cast<png_uint_32>(image.width);
    png.height = static_cast<png_uint_32>(image.height);
    png.format = PNG_FORMAT_RGB;
    // Under its name only when it is whole.
    const std::string partial = path + ".partial";
    if (png_image_write_to_file(&png, partial.c_str(), 0, image.pixels.data(), 0,
                                nullptr) == 0 ||
        std::rename(partial.c_str(), path.c_str()) != 0) {
        std::remove(partial.c_str());
        throw std::runtime_error("cannot write " + path + "; check folder and free space");
    }
}
