// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace winnow::test {

ModelSource open_tiny(const TinyOptions& options) {
    const auto path = std::filesystem::temp_directory_path() / fmt::format("winnow-tiny-{}.gguf", getpid());
    const std::vector<std::byte> bytes = make_tiny_gguf(options);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    ModelSource source = open_model(path.string());
    std::filesystem::remove(path);  // it stays mapped
    return source;
}

}  // namespace winnow::test
