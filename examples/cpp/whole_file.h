// Files that are whole or not there: written aside, then moved into place.
#pragma once

#include <cstddef>
#include <string>

// A link to a file stays; what is no file, like /dev/null, is written as it comes.
// Throws std::runtime_error if the file cannot be written; what stood there stays.
void write_whole(const std::string& path, const void* content, std::size_t n_bytes);
