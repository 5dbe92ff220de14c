// SPDX-License-Identifier: Apache-2.0
#include "models/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

std::string trim(std::string_view text) {
    const char* spaces = " \t\r\n\f\v";
    const std::size_t begin = text.find_first_not_of(spaces);
    if (begin == std::string_view::npos) return "";
    return std::string(text.substr(begin, text.find_last_not_of(spaces) - begin + 1));
}

std::string render_chatml(const std::vector<ChatMessage>& messages, bool open) {
    std::string out;
    for (const ChatMessage& m : messages) out += fmt::format("<|im_start|>{}\n{}<|im_end|>\n", m.role, m.content);
    return open ? out + "<|im_start|>assistant\n" : out;
}

std::string render_llama3(const std::vector<ChatMessage>& messages, bool open) {
    std::string out;
    for (const ChatMessage& m : messages)
        out += fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", m.role, trim(m.content));
    return open ? out + "<|start_header_id|>assistant<|end_header_id|>\n\n" : out;
}

// No system role: the text stands before the first user turn.
std::string render_gemma(const std::vector<ChatMessage>& messages, bool open) {
    std::string out, system;
    for (const ChatMessage& m : messages) {
        if (m.role == "system") {
            system = m.content + "\n\n";
            continue;
        }
        out += fmt::format("<start_of_turn>{}\n{}{}<end_of_turn>\n", m.role == "assistant" ? "model" : m.role, system, trim(m.content));
        system.clear();
    }
    return open ? out + "<start_of_turn>model\n" : out;
}

std::string render_mistral(const std::vector<ChatMessage>& messages, bool) {
    std::string out, system;
    for (const ChatMessage& m : messages) {
        if (m.role == "system") system = m.content + "\n\n";
        else if (m.role == "user") out += fmt::format("[INST] {}{} [/INST]", std::exchange(system, ""), m.content);
        else out += fmt::format(" {}</s>", m.content);
    }
    return out;
}

std::string render_phi3(const std::vector<ChatMessage>& messages, bool open) {
    std::string out;
    for (const ChatMessage& m : messages) out += fmt::format("<|{}|>\n{}<|end|>\n", m.role, m.content);
    return open ? out + "<|assistant|>\n" : out;
}

std::string render_zephyr(const std::vector<ChatMessage>& messages, bool open) {
    std::string out;
    for (const ChatMessage& m : messages) out += fmt::format("<|{}|>\n{}</s>\n", m.role, m.content);
    return open ? out + "<|assistant|>\n" : out;
}

struct Family {
    std::string_view name;
    std::vector<std::string_view> markers;  // all must stand in the model's template
    std::string (*render)(const std::vector<ChatMessage>&, bool);
    std::vector<std::string_view> stops;
};

const std::vector<Family>& families() {
    static const std::vector<Family> list{
        {"chatml", {"<|im_start|>"}, render_chatml, {"<|im_end|>"}},
        {"llama3", {"<|start_header_id|>", "<|eot_id|>"}, render_llama3, {"<|eot_id|>"}},
        {"gemma", {"<start_of_turn>"}, render_gemma, {"<end_of_turn>"}},
        {"phi3", {"<|assistant|>", "<|end|>"}, render_phi3, {"<|end|>"}},
        {"zephyr", {"<|assistant|>", "eos_token"}, render_zephyr, {}},
        {"mistral", {"[INST]"}, render_mistral, {}},
    };
    return list;
}

// The system prompt that a chatml template inserts by itself: the literal after the opening of a system turn.
std::string inserted_system(std::string_view text) {
    for (const std::string_view opening : {"<|im_start|>system\n", "<|im_start|>system\\n"}) {
        const std::size_t at = text.find(opening);
        if (at == std::string_view::npos) continue;
        const std::string_view rest = text.substr(at + opening.size());
        const std::size_t end = rest.find("<|im_end|>");
        // A template that pastes the caller's message there has a quote or a brace before the end of the turn.
        if (end != std::string_view::npos && rest.substr(0, end).find_first_of("'\"{}") == std::string_view::npos)
            return std::string(rest.substr(0, end));
    }
    return "";
}

}  // namespace

const std::vector<std::string_view>& ChatTemplate::names() {
    static const std::vector<std::string_view> list = [] {
        std::vector<std::string_view> n;
        for (const Family& f : families()) n.push_back(f.name);
        return n;
    }();
    return list;
}

ChatTemplate ChatTemplate::named(std::string_view name) {
    for (const Family& f : families()) {
        if (f.name != name) continue;
        ChatTemplate t;
        t.name_ = f.name;
        return t;
    }
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("unknown chat template '{}'; known are {}", name, fmt::join(names(), ", ")));
}

ChatTemplate ChatTemplate::from_gguf(const GgufFile& file) {
    const std::string_view text = file.find_string("tokenizer.chat_template").value_or("");
    for (const Family& f : families()) {
        bool all = !text.empty();
        for (const std::string_view marker : f.markers) all = all && text.find(marker) != std::string_view::npos;
        if (!all) continue;
        ChatTemplate t;
        t.name_ = f.name;
        if (f.name == "chatml") t.default_system_ = inserted_system(text);
        return t;
    }
    // No template in the file: the turns' own control tokens tell as much.
    if (text.empty()) {
        if (const GgufArray* tokens = file.find_array("tokenizer.ggml.tokens")) {
            for (const Family& f : families()) {
                bool all = f.name == "chatml" || f.name == "llama3" || f.name == "gemma";
                for (const std::string_view marker : f.markers)
                    all = all && std::find(tokens->strings.begin(), tokens->strings.end(), marker) != tokens->strings.end();
                if (all) return named(f.name);
            }
        }
    }
    ChatTemplate t = named("chatml");
    t.is_fallback_ = true;
    return t;
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool open_answer) const {
    for (const Family& f : families())
        if (f.name == name_) return f.render(messages, open_answer);
    return "";
}

std::vector<std::string> ChatTemplate::stop_strings() const {
    for (const Family& f : families())
        if (f.name == name_) return {f.stops.begin(), f.stops.end()};
    return {};
}

}  // namespace winnow
