// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "winnow/session.h"

namespace winnow::program {

/// --prompt-cache: the file that a run takes keys and values from and leaves them in. What goes wrong with it is one warning,
/// never the end of the run.
class PromptCache {
public:
    /// @param path empty: no cache, and nothing below does anything.
    explicit PromptCache(std::string path) : path_(std::move(path)) {}

    /// Puts what the file and a prompt have in common into an empty cache; the first call only.
    void restore(Session& session, std::span<const TokenId> prompt);
    /// Writes what is cached, unless the file begins with it already. Ends an answer.
    void save(Session& session);

private:
    std::string path_;
    bool tried_ = false;
    std::vector<TokenId> stored_;  ///< what the file is known to begin with
};

}  // namespace winnow::program
