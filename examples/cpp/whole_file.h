// Atomic writes: to a file beside the target, which is then renamed.
#pragma once

#include <cstddef>
#include <string>

// Keeps a link to a file. Writes directly to what is not a file, such as /dev/null.
// Throws std::runtime_error if the file cannot be written; an old file is kept.
void write_whole(const std::string& path, const void* content, std::size_t n_bytes);
