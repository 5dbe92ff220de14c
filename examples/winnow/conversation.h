// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "models/chat_template.h"

namespace winnow::program {

/// The text of a chat. The tokens in the cache follow from it; it never follows from them.
struct Conversation {
    std::optional<std::string> system;
    std::vector<ChatMessage> turns;  ///< user and assistant in turn, user first

    /// With the system message in front: the user's, or what the model's own template inserts.
    std::vector<ChatMessage> messages(const ChatTemplate& chat_template) const;
    /// Takes away the last question and its answer. @returns false when there is none.
    bool undo();
};

/// Writes the conversation as JSON, whole or not at all. @throws Error(kIo).
void save_conversation(const Conversation& conversation, const std::string& model_name, const std::string& path);

struct LoadedConversation {
    Conversation conversation;
    std::string model_name;  ///< of the model that it was held with
};

/// Everything is checked before anything is returned.
/// @throws Error(kIo) when it cannot be read, Error(kInvalidArgument) when it is no conversation.
LoadedConversation load_conversation(const std::string& path);

}  // namespace winnow::program
