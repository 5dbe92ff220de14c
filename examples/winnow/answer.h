// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"
#include "winnow/session.h"

namespace winnow::program {

enum class FinishReason {
    kStop,         ///< the model ended, or a stop string came
    kLength,       ///< -n tokens
    kContextFull,  ///< no room for another token
    kInterrupted,  ///< Ctrl-C
};

struct AnswerRequest {
    std::vector<TokenId> prompt;  ///< the whole sequence; what the cache already holds is not computed again
    SamplingOptions sampling;
    std::vector<std::string> stop_strings;
    std::int64_t n_predict = -1;  ///< negative = no limit but the context
    /// Called when all of the prompt but its last token is in the cache (with n_predict 0: all of it); may end the
    /// session's answer.
    std::function<void()> on_prompt_read;
};

struct Answer {
    std::string text;
    std::vector<TokenId> tokens;  ///< with the one that ended it, if any
    FinishReason finish_reason = FinishReason::kStop;
    std::uint32_t n_reused = 0;  ///< prompt tokens that were in the cache
    /// The others, as far as they were read. One more than `stats` has where tokens follow: a step of decoding reads
    /// the last.
    std::uint32_t n_read = 0;
    SessionStats stats;
};

/// Streams an answer: `on_text` gets whole characters that can no longer become a stop string.
/// A progress bar shows while the prompt is read. On Ctrl-C the answer so far is returned.
/// @throws Error(kInvalidArgument) when the prompt does not fit: both numbers are in the message.
Answer answer(Session& session, const Tokenizer& tokenizer, const AnswerRequest& request,
              const std::function<void(std::string_view)>& on_text);

/// @throws Error(kInvalidArgument) when n_tokens exceed the session's context or are none.
void check_fits(const Session& session, std::size_t n_tokens);

/// "stop", "length" or "interrupted", as servers name them.
const char* finish_name(FinishReason reason);

/// "[ prompt 234 tok 812.0 t/s, 1000 from the cache | gen 256 tok 43.1 t/s | ctx 1490/32768 ]"
std::string describe_stats(const Answer& answer, const Session& session);

/// --sparse-report: a table of what each layer attended to and captured; one line for dense attention.
std::string describe_sparse(const Session& session);

double per_second(std::uint64_t n, double seconds);

/// "812.0 t/s" behind `before`; nothing where no token was timed.
std::string speed_text(std::uint64_t n, double seconds, const char* before);

}  // namespace winnow::program
