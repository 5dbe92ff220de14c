// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/tokenizer.h"
#include "winnow/session.h"

namespace winnow::program {

/// --prompt-cache: the file that a run takes keys and values from and leaves them in. What goes wrong with it once the
/// run has begun is one warning, never the end of the run.
class PromptCache {
public:
    /// Before the model is loaded: looks whether the file can be written. One that is there and can only be read is a
    /// warning.
    /// @param path empty: no cache, and nothing below does anything.
    /// @throws Error(kIo) where there is no file and none can be made.
    explicit PromptCache(std::string path);

    /// Puts what the file and a prompt have in common into an empty cache; the first call only.
    void restore(Session& session, std::span<const TokenId> prompt);
    /// Writes what is cached, unless the file begins with it already. Ends an answer. Warns, once, where rings no
    /// longer reach back to the end of the first prompt: a run that begins as this one did finds nothing there then.
    void save(Session& session);

private:
    void warn_if_outgrown(const Session& session);

    std::string path_;
    bool read_only_ = false, tried_ = false, warned_ = false;
    std::uint32_t n_first_ = 0;    ///< tokens of the first prompt that a run can take from a file
    std::vector<TokenId> stored_;  ///< what the file is known to begin with
};

}  // namespace winnow::program
