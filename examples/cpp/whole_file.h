// Files that are whole or not there: written aside, then moved into place.
#pragma once

#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

// Lets `write` write to a place, which it gets as a std::string, and moves that to `path`; `write`
// says whether it could. A link to a file stays; what is no file, like /dev/null, is written as it comes.
// Throws std::runtime_error if the file cannot be written; what stood there stays.
template <typename Write>
void write_whole(const std::string& path, const Write& write) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    const fs::file_status status = fs::status(path, ignored);
    const bool is_device =
        fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status);
    const bool is_link = !is_device && fs::is_symlink(path, ignored);
    const std::string target = is_link ? fs::weakly_canonical(path, ignored).string() : path;
    const std::string place = is_device ? path : target + ".partial";
    if (write(place) && (is_device || std::rename(place.c_str(), target.c_str()) == 0)) {
        return;
    }
    if (!is_device) {
        std::remove(place.c_str());
    }
    throw std::runtime_error("cannot write " + path + "; check folder and free space");
}
