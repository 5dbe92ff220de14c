// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "examples/winnow/answer.h"
#include "examples/winnow/conversation.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/prompt_cache.h"

namespace winnow::program {

/// An interactive chat: one conversation, one session. The conversation's text is rendered and
/// tokenised anew for each answer; what the cache already holds of it is not computed again.
class Chat {
public:
    /// Loads the model. @throws what open_vocabulary and open_session throw.
    explicit Chat(const Options& options);

    /// Asks and streams the answer to standard output. A question that is not answered (it does not
    /// fit, or Ctrl-C came while it was read) is taken back.
    /// @throws Error; kInvalidArgument leaves the conversation as it was.
    FinishReason ask(const std::string& question);

    /// Runs a line that begins with '/'. @returns false when the chat is to end.
    /// @throws Error with a line for the user; nothing has changed then.
    bool run_command(const std::string& line);

    /// Leaves the conversation in the file of --prompt-cache.
    void save_cache() { cache_.save(*session_); }

    /// One line on standard error about the model, the device and the context.
    void greet() const;

private:
    struct Totals {
        std::uint64_t n_prompt = 0;
        std::uint64_t n_reused = 0, n_read = 0;  ///< tokens of prompts: those in the cache, and the others
        double prompt_seconds = 0;
        std::uint64_t n_generated = 0;
        double generate_seconds = 0;
    };

    std::vector<TokenId> tokens() const;
    FinishReason answer_last();
    void report(const Answer& answer);

    void clear(const std::string& argument);
    void regenerate(const std::string& argument);
    void undo(const std::string& argument);
    void read(const std::string& argument);
    void save(const std::string& argument);
    void load(const std::string& argument);
    void set_system(const std::string& argument);
    void set_value(const std::string& argument);
    void show_stats(const std::string& argument);
    void show_tokens(const std::string& argument);

    const Options& options_;
    Vocabulary vocabulary_;
    ChatTemplate template_;
    std::unique_ptr<Session> session_;
    PromptCache cache_;
    bool cache_has_prompt_ = false;  ///< the first prompt was saved; the rest is when the chat ends
    SamplingOptions sampling_;
    std::int64_t n_predict_;
    std::vector<std::string> stop_strings_;
    Conversation conversation_;
    std::string attached_;  ///< text of /read, goes in front of the next question
    Totals totals_;
};

}  // namespace winnow::program
