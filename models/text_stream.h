// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "models/tokenizer.h"

namespace winnow {

/// Turns generated tokens into text that can be printed at once. Holds back what is not certain
/// yet: the start of a code point, and what may become a stop string.
class TextStream {
public:
    /// @param tokenizer outlives this. @param stop_strings empty ones are ignored.
    TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop_strings);

    /// Text that is certain after `id`. "" once finished.
    std::string push(TokenId id);
    /// A stop string came; it and what follows it are dropped.
    bool finished() const { return finished_; }
    /// The rest, when no more tokens come.
    std::string flush();

private:
    const Tokenizer& tokenizer_;
    std::vector<std::string> stop_strings_;
    std::string held_;
    bool finished_ = false;
};

}  // namespace winnow
