// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/model_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "examples/winnow/split.h"
#include "examples/winnow/terminal.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

namespace fs = std::filesystem;

// user/repo/file, and models--user--repo/snapshots/revision/folder/file.
constexpr int kDeepest = 4;

bool is_file(const fs::path& path) {
    std::error_code ignored;
    return fs::is_regular_file(path, ignored);
}

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

// $`name`, or a folder in the user's home; empty when neither is known.
std::string home_folder(const char* name, const char* in_home) {
    if (std::string folder = variable(name); !folder.empty()) return folder;
    const std::string home = variable("HOME");
    return home.empty() ? "" : fmt::format("{}/{}", home, in_home);
}

// winnow's own: files lie in them directly.
std::vector<std::string> model_folders() {
    std::vector<std::string> folders = split(variable("WINNOW_MODELS"), ':');
    std::erase(folders, "");
    if (const std::string data = home_folder("XDG_DATA_HOME", ".local/share"); !data.empty())
        folders.push_back(data + "/winnow/models");
    return folders;
}

// Other programs': files lie in folders by user, repository and revision. Nothing is written there.
std::vector<std::string> cache_folders() {
    std::vector<std::string> folders;
    const auto add = [&folders](const std::string& root, const char* below) {
        if (!root.empty()) folders.push_back(root + below);
    };
    add(variable("LLAMA_CACHE"), "");
    add(variable("HF_HUB_CACHE"), "");
    add(variable("HUGGINGFACE_HUB_CACHE"), "");
    add(variable("HF_HOME"), "/hub");
    const std::string cache = home_folder("XDG_CACHE_HOME", ".cache");
    add(cache, "/huggingface/hub");
    add(cache, "/llama.cpp");
    add(variable("HOME"), "/.lmstudio/models");
    return folders;
}

// The newest file of one of these names in the folder or below; empty when there is none.
fs::path newest_below(const std::string& folder, const std::array<std::string, 2>& names) {
    fs::path best;
    fs::file_time_type best_time;
    std::error_code error;
    fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error);
    for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        // Blobs are what the snapshots link to, under names that nobody types.
        const bool skipped = name == "blobs" || name == "refs" || name.starts_with(".");
        if (skipped || entry.depth() >= kDeepest) entry.disable_recursion_pending();
        if ((name != names[0] && name != names[1]) || !is_file(entry->path())) continue;
        std::error_code ignored;
        const fs::file_time_type time = fs::last_write_time(entry->path(), ignored);
        const bool newer = time > best_time || (time == best_time && entry->path() < best);
        if (best.empty() || newer) {
            best = entry->path();
            best_time = time;
        }
    }
    return best;
}

}  // namespace

fs::path find_model(const std::string& name) {
    const fs::path plain(name);
    if (is_file(plain) || name.find('/') != std::string::npos) return plain;
    const std::array<std::string, 2> names = {name, name + ".gguf"};
    if (is_file(names[1])) return names[1];
    for (const std::string& folder : model_folders()) {
        for (const std::string& candidate : names) {
            if (is_file(fs::path(folder) / candidate)) return fs::path(folder) / candidate;
        }
    }
    for (const std::string& folder : cache_folders()) {
        const fs::path found = newest_below(folder, names);
        if (found.empty()) continue;
        log_info(fmt::format("model {}", found.string()));
        return found;
    }
    std::error_code ignored;
    if (fs::exists(plain, ignored)) return plain;  // a folder, or nothing that can be read
    throw Error(ErrorCode::kBadFile, fmt::format("no model '{}' here, in WINNOW_MODELS or in a model cache: give the "
                                                 "path of a .gguf file",
                                                 name));
}

}  // namespace winnow::program
