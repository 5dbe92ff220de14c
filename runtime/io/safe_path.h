// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <filesystem>
#include <string>

namespace winnow {

/// A path, fit for a message: '?' for control characters, which a file's name may hold.
std::string safe_path(const std::filesystem::path& path);

}  // namespace winnow
