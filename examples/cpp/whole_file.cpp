#include "whole_file.h"

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace fs = std::filesystem;

namespace {

// Returns the file that a link names. It may not exist yet.
fs::path linked(fs::path path) {
    constexpr int most_links = 40;  // as Linux follows them
    std::error_code ignored;
    for (int number = 0; number < most_links && fs::is_symlink(path, ignored); ++number) {
        path = path.parent_path() / fs::read_symlink(path, ignored);
    }
    return path;
}

bool is_written(const fs::path& path, const void* content, std::size_t n_bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(static_cast<const char*>(content), static_cast<std::streamsize>(n_bytes));
    file.close();
    return static_cast<bool>(file);
}

}  // namespace

void write_whole(const std::string& path, const void* content, std::size_t n_bytes) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status)) {
        if (is_written(path, content, n_bytes)) {
            return;
        }
    } else {
        const fs::path place = linked(path);
        fs::path partial = place;
        partial += ".partial";
        if (is_written(partial, content, n_bytes)) {
            fs::rename(partial, place, error);
            if (!error) {
                return;
            }
        }
        if (fs::is_regular_file(partial, error)) {
            fs::remove(partial, error);
        }
    }
    throw std::runtime_error("cannot write " + path + "; check folder and free space");
}
