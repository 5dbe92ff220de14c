// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/conversation.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "examples/winnow/file_io.h"
#include "winnow/error.h"

namespace winnow::program {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "winnow-chat";
constexpr int kVersion = 1;

void require(bool condition, const std::string& path, std::string_view what) {
    if (!condition) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("'{}' is no saved chat: {}", path, what));
    }
}

const std::string& text_of(const json& object, const char* key, const std::string& path) {
    const auto found = object.find(key);
    require(found != object.end() && found->is_string(), path, fmt::format("'{}' must be a text", key));
    return found->get_ref<const std::string&>();
}

}  // namespace

std::vector<ChatMessage> Conversation::messages(const ChatTemplate& chat_template) const {
    std::vector<ChatMessage> all;
    const std::string text = system.value_or(chat_template.default_system());
    if (!text.empty()) all.push_back({"system", text});
    all.insert(all.end(), turns.begin(), turns.end());
    return all;
}

bool Conversation::undo() {
    if (turns.empty()) return false;
    if (turns.back().role == "assistant") turns.pop_back();
    if (!turns.empty()) turns.pop_back();
    return true;
}

void save_conversation(const Conversation& conversation, const std::string& model_name, const std::string& path) {
    json messages = json::array();
    if (conversation.system) messages.push_back({{"role", "system"}, {"content", *conversation.system}});
    for (const ChatMessage& turn : conversation.turns) {
        messages.push_back({{"role", turn.role}, {"content", turn.content}});
    }
    const json root = {{"format", kFormat}, {"version", kVersion}, {"model", model_name}, {"messages", messages}};
    OutputFile file(path);
    // A model may write bytes that are no UTF-8; JSON cannot hold them.
    file.write(root.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    file.commit();
}

LoadedConversation load_conversation(const std::string& path) {
    const json root = json::parse(read_file(path), nullptr, false);
    require(root.is_object(), path, "it is not a JSON object");
    require(text_of(root, "format", path) == kFormat, path, "'format' is not winnow-chat");
    const auto version = root.find("version");
    require(version != root.end() && version->is_number_integer() && *version == kVersion, path,
            "its version is unknown to this winnow");
    LoadedConversation loaded;
    loaded.model_name = text_of(root, "model", path);
    const auto messages = root.find("messages");
    require(messages != root.end() && messages->is_array(), path, "'messages' must be a list");
    for (const json& message : *messages) {
        require(message.is_object(), path, "a message is no object");
        const std::string& role = text_of(message, "role", path);
        const std::string& content = text_of(message, "content", path);
        std::vector<ChatMessage>& turns = loaded.conversation.turns;
        if (role == "system") {
            require(turns.empty() && !loaded.conversation.system, path, "the system message must come first, once");
            loaded.conversation.system = content;
            continue;
        }
        const std::string_view expected = turns.size() % 2 == 0 ? "user" : "assistant";
        require(role == expected, path, "user and assistant must take turns, user first");
        turns.push_back({role, content});
    }
    return loaded;
}

}  // namespace winnow::program
