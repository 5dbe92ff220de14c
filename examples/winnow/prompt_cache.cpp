// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/prompt_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/terminal.h"
#include "runtime/io/whole_file.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

// A lost device or a bug ends the run; anything else about the file does not.
void warn_or_rethrow(const Error& error, const char* then) {
    if (error.code() == ErrorCode::kDeviceLost || error.code() == ErrorCode::kInternal) throw error;
    log_warning(fmt::format("--prompt-cache: {}; {}", error.what(), then));
}

// Missing, or empty as mktemp leaves it.
bool holds_nothing(const std::string& path) {
    std::error_code error;
    if (!std::filesystem::exists(path, error) && !error) return true;
    return std::filesystem::is_regular_file(path, error) && std::filesystem::file_size(path, error) == 0 && !error;
}

}  // namespace

PromptCache::PromptCache(std::string path) : path_(std::move(path)) {
    try {
        check_writable(path_);
    } catch (const Error& error) {
        std::error_code ignored;
        if (holds_nothing(path_) || !std::filesystem::is_regular_file(path_, ignored))
            throw Error(error.code(), fmt::format("--prompt-cache: {}", error.what()));
        warn_or_rethrow(error, "it is only read");
        read_only_ = true;
    }
}

void PromptCache::restore(Session& session, std::span<const TokenId> prompt) {
    if (path_.empty() || tried_) return;
    tried_ = true;
    n_first_ = static_cast<std::uint32_t>(prompt.size()) - 1;  // the last one is always read, for its logits
    if (holds_nothing(path_)) return;
    try {
        const std::uint32_t n = session.restore_cache(path_, prompt);
        stored_.assign(prompt.begin(), prompt.begin() + n);
        log_info(fmt::format("--prompt-cache: {} of {} prompt tokens from '{}'", n, prompt.size(), path_));
    } catch (const Error& error) {
        const bool stale = error.code() == ErrorCode::kBadFile;
        warn_or_rethrow(error, stale ? "the whole prompt is read, and the file made anew" : "the whole prompt is read");
        if (!stale) path_.clear();  // somebody else's file, or one that cannot be read and so not be replaced
    }
}

void PromptCache::save(Session& session) {
    if (path_.empty() || read_only_) return;
    session.finish();
    const std::vector<TokenId>& cached = session.tokens();
    if (cached.size() <= stored_.size() && std::equal(cached.begin(), cached.end(), stored_.begin())) return;
    try {
        session.save_cache(path_);
        stored_ = cached;
        warn_if_outgrown(session);
    } catch (const Error& error) {
        warn_or_rethrow(error, "nothing is saved");
        path_.clear();
    }
}

void PromptCache::warn_if_outgrown(const Session& session) {
    const std::uint32_t n = std::min(n_first_, session.n_cached());
    if (warned_ || session.n_kept(n) == n) return;
    warned_ = true;
    log_warning(
        fmt::format("--prompt-cache: the text has outgrown the sliding windows of this model: '{}' serves only "
                    "a prompt that repeats all of it, as a chat does that goes on by /save and /load",
                    path_));
}

}  // namespace winnow::program
