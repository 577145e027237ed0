#include "png_image.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include <png.h>

#include "whole_file.h"

namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File opened(const std::string& path, const char* mode) {
    File file(std::fopen(path.c_str(), mode), &std::fclose);
    if (!file) {
        throw std::runtime_error("cannot open " + path + "; check path and permissions");
    }
    return file;
}

// The caller reports the error.
[[noreturn]] void leave(png_structp png, png_const_charp) { png_longjmp(png, 1); }
void ignore(png_structp, png_const_charp) {}

struct Reader {
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, leave, ignore);
    png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;

    Reader() = default;
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

// libpng leaves by longjmp, which runs no destructors: these two functions need none.
bool began(png_structp png, png_infop info, std::FILE* file) {
    if (setjmp(png_jmpbuf(png))) {
        return false;
    }
    png_init_io(png, file);
    png_read_info(png, info);
    png_set_expand(png);
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return true;
}

bool decoded(png_structp png, png_bytepp rows) {
    if (setjmp(png_jmpbuf(png))) {
        return false;
    }
    png_read_image(png, rows);
    png_read_end(png, nullptr);
    return true;
}

std::runtime_error damaged(const std::string& path) {
    return std::runtime_error(path + " is damaged or no PNG file; convert it to PNG");
}

void check_size(const Image& image, const std::string& path) {
    const std::string has = path + " has " + std::to_string(image.width) + " x " +
                            std::to_string(image.height) + " pixels";
    if (std::min(image.height, image.width) < min_side) {
        throw std::runtime_error(has + ", an image needs at least " + std::to_string(min_side) +
                                 " x " + std::to_string(min_side) + "; leave it out");
    }
    if (std::max(image.height, image.width) > max_side ||
        image.height * image.width > max_pixels) {
        throw std::runtime_error(has + ", no side may have more than " +
                                 std::to_string(max_side) + " and all together " +
                                 std::to_string(max_pixels / 1'000'000) +
                                 " million; cut it into tiles or reduce it");
    }
}

}  // namespace

Image read_png(const std::string& path) {
    const File file = opened(path, "rb");
    const Reader reader;
    if (reader.info == nullptr || !began(reader.png, reader.info, file.get())) {
        throw damaged(path);
    }
    Image image;
    image.height = png_get_image_height(reader.png, reader.info);
    image.width = png_get_image_width(reader.png, reader.info);
    check_size(image, path);  // before the cost of decoding
    const std::size_t row_size = 3 * image.width;
    if (png_get_rowbytes(reader.png, reader.info) != row_size) {
        throw std::runtime_error(path + " is not an image of RGB colors; convert it");
    }
    image.pixels.resize(image.height * row_size);
    std::vector<png_bytep> rows;
    for (std::size_t row = 0; row < image.height; ++row) {
        rows.push_back(image.pixels.data() + row * row_size);
    }
    if (!decoded(reader.png, rows.data())) {
        throw damaged(path);
    }
    return image;
}

void write_png(const std::string& path, const Image& image) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    png.width = static_cast<png_uint_32>(image.width);
    png.height = static_cast<png_uint_32>(image.height);
    png.format = PNG_FORMAT_RGB;
    // In memory, because libpng removes a file that it cannot write.
    png_alloc_size_t n_bytes = PNG_IMAGE_PNG_SIZE_MAX(png);
    std::vector<std::uint8_t> content(n_bytes);
    if (png_image_write_to_memory(&png, content.data(), &n_bytes, 0, image.pixels.data(), 0,
                                  nullptr) == 0) {
        throw std::runtime_error("cannot make " + path + " (" + png.message + ")");
    }
    write_whole(path, content.data(), n_bytes);
}
