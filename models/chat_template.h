// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf.h"

namespace winnow {

struct ChatMessage {
    std::string role;  ///< "system", "user" or "assistant"
    std::string content;
};

/// A family of chat formats: chatml, llama3, gemma, mistral, phi3, zephyr.
class ChatTemplate {
public:
    /// Recognised from tokenizer.chat_template; chatml with `is_fallback()` when it is absent or unknown.
    static ChatTemplate from_gguf(const GgufFile& file);
    /// @throws Error(kInvalidArgument) listing the known names.
    static ChatTemplate named(std::string_view name);
    static const std::vector<std::string_view>& names();

    std::string_view name() const { return name_; }
    bool is_fallback() const { return is_fallback_; }
    /// The whole conversation as text, to be encoded with parse_special. Ends with the opening of the
    /// assistant's turn when `open_answer`. Contains BOS only if the family writes it itself.
    std::string render(const std::vector<ChatMessage>& messages, bool open_answer) const;
    /// System prompt that the model's own template inserts when there is none ("" when it inserts nothing).
    const std::string& default_system() const { return default_system_; }
    /// Strings that end an answer even when they are no end-of-generation token.
    std::vector<std::string> stop_strings() const;

private:
    std::string_view name_;
    bool is_fallback_ = false;
    std::string default_system_;
};

}  // namespace winnow
