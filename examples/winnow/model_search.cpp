// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/model_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <map>
#include <system_error>
#include <utility>
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

// The files in a folder and at most so many folders deep, the newest first.
std::vector<fs::path> files_below(const std::string& folder, int deepest) {
    std::vector<std::pair<fs::file_time_type, fs::path>> files;
    std::error_code error;
    fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error);
    for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        // Blobs are what the snapshots link to, under names that nobody types.
        const bool skipped = name == "blobs" || name == "refs" || name.starts_with(".");
        if (skipped || entry.depth() >= deepest) entry.disable_recursion_pending();
        std::error_code ignored;
        if (is_file(entry->path())) files.emplace_back(fs::last_write_time(entry->path(), ignored), entry->path());
    }
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    std::vector<fs::path> paths;
    for (auto& [time, path] : files) paths.push_back(std::move(path));
    return paths;
}

std::string lower(std::string text) {
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
}

// The model whose name, in whatever case, begins so; empty when none does. Sidecars are no models.
// @throws Error(kInvalidArgument) naming them when there are several.
fs::path find_by_beginning(const std::string& beginning) {
    std::map<std::string, fs::path> found;  // by name: of one name the first is taken, as of whole names
    const auto look_in = [&](const std::string& folder, int deepest) {
        for (const fs::path& path : files_below(folder, deepest)) {
            const std::string name = lower(path.filename().string());
            if (name.starts_with(lower(beginning)) && name.ends_with(".gguf") && !name.ends_with(".winnow.gguf"))
                found.emplace(path.filename().string(), path);
        }
    };
    look_in(".", 0);
    for (const std::string& folder : model_folders()) look_in(folder, 0);
    for (const std::string& folder : cache_folders()) look_in(folder, kDeepest);
    if (found.empty()) return {};
    if (found.size() == 1) return found.begin()->second;
    std::string names;
    for (const auto& [name, path] : found) names += (names.empty() ? "" : ", ") + name;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is the beginning of {} models: give one of {}", beginning, found.size(), names));
}

// For whom not the file itself was named.
fs::path told(fs::path path) {
    log_info(fmt::format("model {}", path.string()));
    return path;
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
    for (const std::string& folder : cache_folders())
        for (const fs::path& path : files_below(folder, kDeepest))
            if (const std::string file = path.filename().string(); file == names[0] || file == names[1])
                return told(path);
    if (const fs::path found = find_by_beginning(name); !found.empty()) return told(found);
    std::error_code ignored;
    if (fs::exists(plain, ignored)) return plain;  // a folder, or nothing that can be read
    throw Error(ErrorCode::kBadFile, fmt::format("no model '{}' here, in WINNOW_MODELS or in a model cache: give the "
                                                 "path of a .gguf file",
                                                 name));
}

}  // namespace winnow::program
