// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <string>
#include <string_view>

#include "examples/winnow/chat.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/sampling.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

constexpr const char* kHelp =
    "/help            this list\n"
    "/exit            leave (also /quit, /bye, Ctrl-D)\n"
    "/clear           forget the conversation (also /reset)\n"
    "/regen           answer the last question again\n"
    "/undo            take back the last question and its answer\n"
    "/read FILE       put the text of a file in front of the next question\n"
    "/save FILE       write the conversation as JSON\n"
    "/load FILE       go on with a saved conversation\n"
    "/system TEXT     set the system prompt; \"\" = none; without text, show it\n"
    "/set KEY=VALUE   temp, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed, n; alone, "
    "show them\n"
    "/stats           tokens, speed and memory so far\n"
    "/tokens          tokens of each message and of the context\n"
    "A \\ at the end of a line continues it; \"\"\" begins and ends a text of several lines.\n"
    "Ctrl-C stops an answer; at the prompt it leaves. A message may begin with a space to keep its "
    "/.\n";

std::string trim(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return "";
    return std::string(text.substr(begin, text.find_last_not_of(" \t") - begin + 1));
}

// Answers to commands are for the person at the terminal, not part of the model's text.
void tell(const std::string& line) { write_err(without_controls(line) + "\n"); }

const std::string& need_file(const std::string& argument, const char* command) {
    // "-" would be standard input, where the chat itself reads.
    if (argument.empty() || argument == "-") {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("{} needs a file name", command));
    }
    return argument;
}

}  // namespace

bool Chat::run_command(const std::string& line) {
    struct Entry {
        std::string_view name;
        void (Chat::*run)(const std::string&);
    };
    static constexpr std::array<Entry, 11> kEntries = {{{"/clear", &Chat::clear},
                                                        {"/reset", &Chat::clear},
                                                        {"/regen", &Chat::regenerate},
                                                        {"/undo", &Chat::undo},
                                                        {"/read", &Chat::read},
                                                        {"/save", &Chat::save},
                                                        {"/load", &Chat::load},
                                                        {"/system", &Chat::set_system},
                                                        {"/set", &Chat::set_value},
                                                        {"/stats", &Chat::show_stats},
                                                        {"/tokens", &Chat::show_tokens}}};
    const std::size_t end = std::min(line.find_first_of(" \t"), line.size());
    const std::string name = line.substr(0, end);
    const std::string argument = trim(std::string_view(line).substr(end));
    if (name == "/exit" || name == "/quit" || name == "/bye") return false;
    if (name == "/help" || name == "/?") {
        write_err(kHelp);
        return true;
    }
    for (const Entry& entry : kEntries) {
        if (entry.name != name) continue;
        (this->*entry.run)(argument);
        return true;
    }
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("'{}' is no command: /help lists them; begin with a space to send it as text", name));
}

void Chat::clear(const std::string&) {
    conversation_.turns.clear();
    attached_.clear();
    session_->truncate(0);
    tell("conversation cleared");
}

void Chat::regenerate(const std::string&) {
    std::vector<ChatMessage>& turns = conversation_.turns;
    if (turns.empty()) throw Error(ErrorCode::kInvalidArgument, "there is no answer to give again");
    const ChatMessage previous = turns.back();
    turns.pop_back();
    // The same seed would give the same answer.
    ++sampling_.seed;
    try {
        answer_last();
    } catch (...) {
        turns.push_back(previous);
        throw;
    }
    if (turns.back().role != "assistant") turns.push_back(previous);
}

void Chat::undo(const std::string&) {
    if (!conversation_.undo()) throw Error(ErrorCode::kInvalidArgument, "there is nothing to undo");
    tell(fmt::format("last question taken back; {} messages left", conversation_.turns.size()));
}

void Chat::read(const std::string& argument) {
    std::string text = read_file(need_file(argument, "/read"));
    const std::size_t n_tokens = vocabulary_.tokenizer->encode(text, {.add_bos = false, .parse_special = false}).size();
    if (n_tokens > session_->n_ctx()) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("'{}' has {} tokens but the context holds {}: start with a larger -c", argument,
                                n_tokens, session_->n_ctx()));
    }
    attached_ += (attached_.empty() ? "" : "\n\n") + text;
    tell(fmt::format("'{}': {} tokens, goes with your next question", argument, n_tokens));
}

void Chat::save(const std::string& argument) {
    save_conversation(conversation_, vocabulary_.path.filename().string(), need_file(argument, "/save"));
    tell(fmt::format("{} messages saved to '{}'", conversation_.turns.size(), argument));
}

void Chat::load(const std::string& argument) {
    LoadedConversation loaded = load_conversation(need_file(argument, "/load"));
    if (loaded.conversation.turns.size() % 2 != 0) loaded.conversation.turns.pop_back();
    std::swap(conversation_, loaded.conversation);
    const std::size_t n_tokens = tokens().size();
    if (n_tokens > session_->n_ctx()) {
        std::swap(conversation_, loaded.conversation);
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("'{}' has {} tokens but the context holds {}: start with a larger -c", argument,
                                n_tokens, session_->n_ctx()));
    }
    attached_.clear();
    const std::string model = vocabulary_.path.filename().string();
    if (loaded.model_name != model) {
        log_warning(fmt::format("this chat was held with '{}', not with '{}'", loaded.model_name, model));
    }
    tell(fmt::format("{} messages loaded, {} tokens", conversation_.turns.size(), n_tokens));
}

void Chat::set_system(const std::string& argument) {
    if (!argument.empty()) conversation_.system = argument == "\"\"" ? "" : argument;
    const std::string shown = conversation_.system.value_or(template_.default_system());
    tell(shown.empty() ? "there is no system prompt" : "system: " + shown);
}

void Chat::set_value(const std::string& argument) {
    const std::size_t split = argument.find_first_of("= ");
    if (argument.empty()) {
        tell(fmt::format("{} n={}", describe_sampling(sampling_), n_predict_));
        return;
    }
    if (split == std::string::npos)
        throw Error(ErrorCode::kInvalidArgument, "give /set KEY=VALUE, for example /set temp=0.2");
    const std::string key = trim(argument.substr(0, split));
    const std::string value = trim(argument.substr(split + 1));
    if (key == "n") {
        std::int64_t n = 0;
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
        if (error != std::errc{} || end != value.data() + value.size() || n < -1) {
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("n = '{}': give a whole number; -1 = no limit", value));
        }
        n_predict_ = n;
    } else {
        set_sampling(sampling_, key, value, session_->n_ctx());
    }
    tell(fmt::format("{} n={}", describe_sampling(sampling_), n_predict_));
}

void Chat::show_stats(const std::string&) {
    const MemoryPlan& memory = session_->memory();
    tell(fmt::format("prompt     {} tokens{}, {} more from the cache", totals_.n_read,
                     speed_text(totals_.n_prompt, totals_.prompt_seconds, ", "), totals_.n_reused));
    tell(fmt::format("generated  {} tokens{}", totals_.n_generated,
                     speed_text(totals_.n_generated, totals_.generate_seconds, ", ")));
    tell(fmt::format("context    {}/{} tokens", session_->n_cached(), session_->n_ctx()));
    tell(fmt::format("memory     {} MiB: weights {}, cache {}, index {}, scratch {}", memory.total_bytes() >> 20,
                     memory.weight_bytes >> 20, memory.kv_bytes >> 20, memory.index_bytes >> 20,
                     memory.scratch_bytes >> 20));
    tell(fmt::format("device     {} ({})", session_->device().name, session_->device().driver));
}

void Chat::show_tokens(const std::string&) {
    for (const ChatMessage& message : conversation_.messages(template_)) {
        const std::size_t n =
            vocabulary_.tokenizer->encode(message.content, {.add_bos = false, .parse_special = false}).size();
        tell(fmt::format("{:9} {:7} tokens", message.role, n));
    }
    tell(fmt::format("with the template {} of {} tokens, {} in the cache", tokens().size(), session_->n_ctx(),
                     session_->n_cached()));
}

}  // namespace winnow::program
