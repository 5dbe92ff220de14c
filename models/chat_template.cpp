// SPDX-License-Identifier: Apache-2.0
#include "models/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

using Messages = std::vector<ChatMessage>;

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// What Python's str.strip() removes, since that is Jinja's `trim`.
bool is_space(utf8proc_int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view trim(std::string_view text) {
    const auto space_bytes = [](std::string_view at) {
        utf8proc_int32_t c;
        const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(at.data()),
                                        static_cast<utf8proc_ssize_t>(at.size()), &c);
        return n > 0 && is_space(c) ? static_cast<std::size_t>(n) : 0;
    };
    while (const std::size_t n = space_bytes(text)) text.remove_prefix(n);
    while (!text.empty()) {
        std::size_t last = text.size() - 1;
        while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
        if (last + space_bytes(text.substr(last)) != text.size()) break;
        text.remove_suffix(text.size() - last);
    }
    return text;
}

// Where the formats of one shape differ.
struct Turns {  // begin, role, middle, content, end
    std::string_view begin, middle, end;
};
enum class SystemPlace {
    kFirstQuestion,
    kLastQuestion,
    kOwnTurn,
    kFirstQuestionMarked,  // <<SYS>>
};
struct Instructions {  // open, question, close, gap, answer, "</s>"
    std::string_view open, close, gap;
    SystemPlace system;
    bool trims_answers = false;
};

// Each turn the same, whoever speaks.
std::string render_turns(const Turns& style, const Messages& messages, bool open) {
    std::string out;
    for (const ChatMessage& m : messages) {
        out += fmt::format("{}{}{}{}{}", style.begin, m.role, style.middle, m.content, style.end);
    }
    return open ? out + fmt::format("{}assistant{}", style.begin, style.middle) : out;
}

// Llama 3.1 and later put `preamble` (the dates) before the system message, or in its place.
std::string render_llama3(std::string_view preamble, const Messages& messages, bool open) {
    std::string out;
    const auto add = [&](std::string_view role, std::string_view before, std::string_view content) {
        out += fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}{}<|eot_id|>", role, before, content);
    };
    const bool has_system = !messages.empty() && messages[0].role == "system";
    if (!preamble.empty()) {
        std::string_view content = has_system ? messages[0].content : std::string_view();
        // The caller may have asked for the default, which is the preamble.
        if (content.starts_with(preamble)) content.remove_prefix(preamble.size());
        add("system", preamble, trim(content));
    }
    for (const ChatMessage& m : messages) {
        if (!preamble.empty() && has_system && &m == &messages[0]) continue;
        add(m.role, "", trim(m.content));
    }
    return open ? out + "<|start_header_id|>assistant<|end_header_id|>\n\n" : out;
}

// No system role: its text stands before the first question.
std::string render_gemma(const Messages& messages, bool open) {
    std::string out, system;
    for (const ChatMessage& m : messages) {
        if (m.role == "system") {
            system += m.content + "\n\n";
            continue;
        }
        out += fmt::format("<start_of_turn>{}\n{}{}<end_of_turn>\n", m.role == "assistant" ? "model" : m.role,
                           std::exchange(system, ""), trim(m.content));
    }
    return open ? out + "<start_of_turn>model\n" : out;
}

// The answer's opening is the end of the question.
std::string render_instructions(const Instructions& style, const Messages& messages) {
    std::string out, system;
    std::size_t last_question = 0;
    for (std::size_t i = 0; i < messages.size(); ++i) {
        if (messages[i].role == "user") last_question = i;
    }
    bool is_marked = style.system == SystemPlace::kFirstQuestionMarked;
    for (std::size_t i = 0; i < messages.size(); ++i) {
        const ChatMessage& m = messages[i];
        if (m.role == "system" && style.system == SystemPlace::kOwnTurn) {
            out += fmt::format("[SYSTEM_PROMPT]{}{}[/SYSTEM_PROMPT]", style.gap, m.content);
        } else if (m.role == "system") {
            system += is_marked ? fmt::format("<<SYS>>\n{}\n<</SYS>>\n\n", m.content) : m.content + "\n\n";
        } else if (m.role == "user") {
            const bool waits = style.system == SystemPlace::kLastQuestion && i != last_question;
            std::string question = (waits ? "" : std::exchange(system, "")) + m.content;
            // Llama 2 begins each round as a text of its own; the tokenizer adds the first BOS.
            if (is_marked) question = trim(question);
            if (is_marked && !out.empty()) out += "<s>";
            out += fmt::format("{}{}{}", style.open, question, style.close);
        } else {
            const std::string_view answer = style.trims_answers ? trim(m.content) : std::string_view(m.content);
            out += fmt::format("{}{}{}</s>", style.gap, answer, is_marked ? " " : "");
        }
    }
    return out;
}

constexpr Turns kChatml{"<|im_start|>", "\n", "<|im_end|>\n"};
constexpr Turns kPhi3{"<|", "|>\n", "<|end|>\n"};
constexpr Turns kPhi4{"<|im_start|>", "<|im_sep|>", "<|im_end|>"};
constexpr Turns kPhi4Mini{"<|", "|>", "<|end|>"};
constexpr Turns kZephyr{"<|", "|>\n", "</s>\n"};
constexpr Turns kStableLm{"<|", "|>\n", "<|endoftext|>\n"};
constexpr Instructions kMistral{"[INST] ", " [/INST]", "", SystemPlace::kFirstQuestion};
constexpr Instructions kMistralV1{" [INST] ", " [/INST]", " ", SystemPlace::kFirstQuestion};
constexpr Instructions kMistralV3{"[INST] ", "[/INST]", " ", SystemPlace::kLastQuestion, true};
constexpr Instructions kMistralV3Tekken{"[INST]", "[/INST]", "", SystemPlace::kLastQuestion};
constexpr Instructions kMistralV7{"[INST] ", "[/INST]", " ", SystemPlace::kOwnTurn};
constexpr Instructions kMistralV7Tekken{"[INST]", "[/INST]", "", SystemPlace::kOwnTurn};
constexpr Instructions kLlama2{"[INST] ", " [/INST]", " ", SystemPlace::kFirstQuestionMarked, true};

struct Family {
    std::string_view name;
    std::string_view stop;  // "" = its turns end with the model's EOS
    const Turns* turns = nullptr;
    const Instructions* instructions = nullptr;
};

constexpr Family kFamilies[] = {
    {"chatml", "<|im_end|>", &kChatml},
    {"llama3", "<|eot_id|>"},
    {"gemma", "<end_of_turn>"},
    {"mistral", "", nullptr, &kMistral},
    {"phi3", "<|end|>", &kPhi3},
    {"zephyr", "", &kZephyr},
    // Later and earlier forms of the above.
    {"mistral-v1", "", nullptr, &kMistralV1},
    {"mistral-v3", "", nullptr, &kMistralV3},
    {"mistral-v3-tekken", "", nullptr, &kMistralV3Tekken},
    {"mistral-v7", "", nullptr, &kMistralV7},
    {"mistral-v7-tekken", "", nullptr, &kMistralV7Tekken},
    {"llama2", "", nullptr, &kLlama2},
    {"phi4", "<|im_end|>", &kPhi4},
    {"phi4-mini", "<|end|>", &kPhi4Mini},
    {"stablelm", "<|endoftext|>", &kStableLm},
};

const Family* find_family(std::string_view name) {
    const auto found =
        std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& f) { return f.name == name; });
    return found == std::end(kFamilies) ? nullptr : found;
}

// The rest of the {{ }} or {% %} in which `part` first stands.
std::string_view expression_after(std::string_view text, std::string_view part) {
    const std::size_t at = text.find(part);
    if (at == text.npos) return {};
    const std::string_view rest = text.substr(at + part.size());
    return rest.substr(0, std::min(rest.find("}}"), rest.find("%}")));
}

// Whether a line break follows `part`: itself, escaped, or as a string of its own.
bool breaks_line_after(std::string_view text, std::string_view part) {
    for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) {
        const std::string_view rest = text.substr(at + part.size());
        for (const std::string_view next : {"\n", "\\n", "' + '\\n", "\" + \"\\n"}) {
            if (rest.starts_with(next)) return true;
        }
    }
    return false;
}

std::string_view recognise_instructions(std::string_view text) {
    if (contains(text, "<<SYS>>")) return "llama2";
    const bool has_gap = contains(text, "[INST] ");
    if (contains(text, "[SYSTEM_PROMPT]")) return has_gap ? "mistral-v7" : "mistral-v7-tekken";
    if (contains(text, "' [INST]") || contains(text, "\" [INST]")) return "mistral-v1";
    if (contains(text, " [/INST]")) return "mistral";
    return has_gap ? "mistral-v3" : "mistral-v3-tekken";
}

// "" when the template is of no family here: a wrong format still gives fluent answers, bad ones.
std::string_view recognise(std::string_view text, std::string_view eos) {
    if (contains(text, "<|im_sep|>")) return "phi4";
    if (contains(text, "<end_of_utterance>")) return "";  // SmolVLM: <|im_start|> is its BOS
    if (contains(text, "<|im_start|>")) return "chatml";
    if (contains(text, "<|start_header_id|>") && contains(text, "<|eot_id|>")) return "llama3";
    if (contains(text, "<start_of_turn>")) return "gemma";
    if (contains(text, "[INST]")) return recognise_instructions(text);
    if (!contains(text, "<|assistant|>")) return "";
    if (contains(text, "<|end|>")) {
        return breaks_line_after(text, "<|assistant|>") ? "phi3" : "phi4-mini";
    }
    // Others (Falcon 3, OLMo, Tulu) have these roles too, but end a question with a line break.
    if (!contains(expression_after(text, "<|user|>"), "eos_token")) return "";
    if (eos == "</s>") return "zephyr";
    return eos == "<|endoftext|>" ? "stablelm" : "";
}

// Text of the string that starts at `text` and ends with `quote`, or at `end` if that comes first.
// `text` is moved behind it.
std::string take_literal(std::string_view& text, char quote, std::string_view end) {
    std::string out;
    while (!text.empty() && text[0] != quote && (end.empty() || !text.starts_with(end))) {
        const bool is_escape = text[0] == '\\' && text.size() > 1;
        if (is_escape) text.remove_prefix(1);
        const char c = text[0];
        out += is_escape && c == 'n' ? '\n' : is_escape && c == 't' ? '\t' : c;
        text.remove_prefix(1);
    }
    return out;
}

void skip_spaces(std::string_view& text) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

// The first string, not empty, that the template gives to a variable: {% set NAME = "..." %}.
std::string assigned_literal(std::string_view text, std::string_view name) {
    const std::string set = fmt::format("set {}", name);
    for (std::size_t at = text.find(set); at != text.npos; at = text.find(set, at + 1)) {
        std::string_view rest = text.substr(at + set.size());
        skip_spaces(rest);
        if (!rest.starts_with('=')) continue;
        rest.remove_prefix(1);
        skip_spaces(rest);
        if (!rest.starts_with('\'') && !rest.starts_with('"')) continue;
        const char quote = rest[0];
        rest.remove_prefix(1);
        std::string value = take_literal(rest, quote, "");
        if (!value.empty()) return value;
    }
    return "";
}

// The system message that a chatml template writes by itself: what stands between the opening and
// the end of a system turn, or the string that was given to the variable there.
std::string inserted_system(std::string_view text) {
    constexpr std::string_view kOpening = "<|im_start|>system";
    constexpr std::string_view kEnd = "<|im_end|>";
    for (std::size_t at = text.find(kOpening); at != text.npos; at = text.find(kOpening, at + 1)) {
        std::string_view rest = text.substr(at + kOpening.size());
        const bool is_escaped = rest.starts_with("\\n");
        if (!is_escaped && !rest.starts_with('\n')) continue;
        rest.remove_prefix(is_escaped ? 2 : 1);
        const char before = at > 0 ? text[at - 1] : '\0';
        const bool is_quoted = before == '\'' || before == '"';
        // Outside of a string the text ends where an expression starts.
        const std::string literal = take_literal(rest, is_quoted ? before : '{', kEnd);
        if (rest.starts_with(kEnd)) {
            if (!literal.empty()) return literal;
            continue;
        }
        if (!literal.empty() || !is_quoted || rest.empty()) continue;
        rest.remove_prefix(1);
        skip_spaces(rest);
        if (!rest.starts_with('+') && !rest.starts_with('~')) continue;
        rest.remove_prefix(1);
        skip_spaces(rest);
        const std::size_t n = std::min(rest.size(), rest.find_first_of(" \t\r\n+~|.[(}"));
        const std::string value = assigned_literal(text, rest.substr(0, n));
        if (!value.empty()) return value;
    }
    return "";
}

// The dates are the template's own, not today's: the same conversation gives the same tokens
// tomorrow, and a saved cache stays good.
std::string dates_preamble(std::string_view text) {
    constexpr std::string_view kKnowledge = "Cutting Knowledge Date: ";
    const std::size_t at = text.find(kKnowledge);
    const std::string date = assigned_literal(text, "date_string");
    if (at == text.npos || date.empty()) return "";
    std::string_view rest = text.substr(at + kKnowledge.size());
    return fmt::format("{}{}\nToday Date: {}\n\n", kKnowledge, trim(take_literal(rest, '"', "\\n")), date);
}

std::string_view eos_token(const GgufFile& file) {
    const GgufArray* tokens = file.find_array("tokenizer.ggml.tokens");
    const auto eos = file.find_uint("tokenizer.ggml.eos_token_id");
    return tokens && eos && *eos < tokens->strings.size() ? tokens->strings[*eos] : "";
}

// By the control tokens, for files without a template.
std::string_view family_of_vocabulary(const GgufFile& file) {
    const GgufArray* tokens = file.find_array("tokenizer.ggml.tokens");
    if (!tokens) return "";
    constexpr std::pair<std::string_view, std::string_view> kMarkers[] = {
        {"<|im_start|>", "chatml"},
        {"<|start_header_id|>", "llama3"},
        {"<start_of_turn>", "gemma"},
    };
    for (const auto& [marker, family] : kMarkers) {
        const auto& all = tokens->strings;
        if (std::find(all.begin(), all.end(), marker) != all.end()) return family;
    }
    return "";
}

}  // namespace

const std::vector<std::string_view>& ChatTemplate::names() {
    static const std::vector<std::string_view> list = [] {
        std::vector<std::string_view> names;
        for (const Family& f : kFamilies) names.push_back(f.name);
        return names;
    }();
    return list;
}

ChatTemplate ChatTemplate::named(std::string_view name) {
    const Family* family = find_family(name);
    if (!family) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("unknown chat template '{}'; known are {}", name, fmt::join(names(), ", ")));
    }
    ChatTemplate made;
    made.name_ = family->name;
    return made;
}

ChatTemplate ChatTemplate::from_gguf(const GgufFile& file) {
    const std::string_view text = file.find_string("tokenizer.chat_template").value_or("");
    const std::string_view known = recognise(text, eos_token(file));
    if (known.empty()) {
        const std::string_view likely = text.empty() ? family_of_vocabulary(file) : "";
        ChatTemplate guess = named(likely.empty() ? "chatml" : likely);
        guess.is_fallback_ = true;
        return guess;
    }
    ChatTemplate found = named(known);
    if (known == "chatml") found.default_system_ = inserted_system(text);
    if (known == "llama3") found.default_system_ = dates_preamble(text);
    return found;
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool open_answer) const {
    if (name_ == "llama3") return render_llama3(default_system_, messages, open_answer);
    if (name_ == "gemma") return render_gemma(messages, open_answer);
    const Family* family = find_family(name_);
    if (!family) return "";
    return family->turns ? render_turns(*family->turns, messages, open_answer)
                         : render_instructions(*family->instructions, messages);
}

std::vector<std::string> ChatTemplate::stop_strings() const {
    const Family* family = find_family(name_);
    if (!family || family->stop.empty()) return {};
    return {std::string(family->stop)};
}

}  // namespace winnow
