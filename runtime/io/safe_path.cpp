// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/safe_path.h"

namespace winnow {

std::string safe_path(const std::filesystem::path& path) {
    std::string out = path.string();
    for (char& c : out)
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
    return out;
}

}  // namespace winnow
