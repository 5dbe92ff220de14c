// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/pre_tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "models/gguf.h"
#include "winnow/error.h"

namespace winnow {
namespace {

using Patterns = std::array<std::string_view, 2>;  // "" = not used

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr Patterns kGpt2Family{kGpt2};
constexpr Patterns kDigitsFamily{R"(\p{N})", kGpt2};
constexpr Patterns kLlama3Family{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                                 R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr Patterns kQwen2Family{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                                R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr Patterns kQwen35Family{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
                                 R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr Patterns kTekkenFamily{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
                                 R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
                                 R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr Patterns kGpt4oFamily{R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
                                R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
                                R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
                                R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
                                R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

struct Known {
    std::string_view name;
    const Patterns& patterns;
    bool ignores_merges = false;
    bool adds_bos = false;
};

// A name says nothing about the model family: models reuse the names of others.
constexpr Known kKnown[] = {
    {"gpt-2", kGpt2Family},
    {"phi-2", kGpt2Family},
    {"jina-es", kGpt2Family},
    {"jina-de", kGpt2Family},
    {"jina-v1-en", kGpt2Family},
    {"jina-v2-es", kGpt2Family},
    {"jina-v2-de", kGpt2Family},
    {"jina-v2-code", kGpt2Family},
    {"mpt", kGpt2Family},
    {"olmo", kGpt2Family},
    {"jais", kGpt2Family},
    {"trillion", kGpt2Family},
    {"modern-bert", kGpt2Family},
    {"exaone4", kGpt2Family},
    {"a.x-4.0", kGpt2Family},
    {"mellum", kGpt2Family},
    {"gigachat", kGpt2Family},
    {"roberta-bpe", kGpt2Family},
    {"smollm", kDigitsFamily},
    {"starcoder", kDigitsFamily},
    {"refact", kDigitsFamily},
    {"command-r", kDigitsFamily},
    {"codeshell", kDigitsFamily},
    {"exaone", kDigitsFamily},
    {"minerva-7b", kDigitsFamily},
    {"mellum2", kDigitsFamily},
    {"llama-bpe", kLlama3Family, true, true},
    {"llama3", kLlama3Family, true, true},
    {"llama-v3", kLlama3Family, true, true},
    {"falcon3", kLlama3Family, true, true},
    {"falcon-h1", kLlama3Family, true, true},
    {"pixtral", kLlama3Family, true, true},
    {"lfm2", kLlama3Family, true, true},
    {"midm-2.0", kLlama3Family, true, true},
    {"dbrx", kLlama3Family},
    {"smaug-bpe", kLlama3Family},
    {"chatglm-bpe", kLlama3Family},
    {"glm4", kLlama3Family},
    {"qwen2", kQwen2Family},
    {"deepseek-r1-qwen", kQwen2Family},
    {"megrez", kQwen2Family},
    {"stablelm2", kQwen2Family},
    {"hunyuan", kQwen2Family},
    {"grok-2", kQwen2Family},
    {"solar-open", kQwen2Family},
    {"qwen35", kQwen35Family},
    {"tekken", kTekkenFamily, true, true},
    {"gpt-4o", kGpt4oFamily},
    {"llama4", kGpt4oFamily},
    {"kanana2", kGpt4oFamily},
    {"minimax-m2", kGpt4oFamily},
};

const Known& known(std::string_view name) {
    const auto found =
        std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& k) { return k.name == name; });
    if (found != std::end(kKnown)) return *found;
    throw Error(ErrorCode::kBadFile, fmt::format("tokenizer.ggml.pre '{}' is unknown; known are {}", safe_excerpt(name),
                                                 fmt::join(PreTokenizer::names(), ", ")));
}

// PCRE2's \s contains U+180E, Unicode's White_Space (which the models were trained with) does not.
std::string with_unicode_space(std::string_view pattern) {
    constexpr std::string_view kSpace = R"(\t-\r\x{85}\p{Z})";
    std::string out;
    bool in_class = false;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
        const char c = pattern[i];
        if (c != '\\') {
            if (c == '[') in_class = true;
            if (c == ']') in_class = false;
            out += c;
            continue;
        }
        const char escaped = pattern[++i];
        if (escaped == 's' && in_class) {
            out += kSpace;
        } else if (escaped == 's' || escaped == 'S') {
            out += fmt::format("[{}{}]", escaped == 'S' ? "^" : "", kSpace);
        } else {
            out += c;
            out += escaped;
        }
    }
    return out;
}

std::string pcre_message(int code) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(code, text.data(), text.size());
    return reinterpret_cast<const char*>(text.data());
}

struct MatchDataDeleter {
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct MatchContextDeleter {
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct CodeDeleter {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};

// Length of the code point at the start of `text`, 0 if there is none.
std::size_t code_point_bytes(std::string_view text) {
    utf8proc_int32_t code_point;
    const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                    static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    return n > 0 ? static_cast<std::size_t>(n) : 0;
}

// Length of the valid run at the start of `text`, or of the invalid one.
std::size_t run_bytes(std::string_view text, bool valid) {
    std::size_t n = 0;
    while (n < text.size()) {
        const std::size_t step = code_point_bytes(text.substr(n));
        if ((step != 0) != valid) break;
        n += valid ? step : 1;
    }
    return n;
}

}  // namespace

class PreTokenizer::Regex {
public:
    explicit Regex(std::string_view pattern) {
        const std::string text = with_unicode_space(pattern);
        int code = 0;
        PCRE2_SIZE offset = 0;
        code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &code,
                                  &offset, nullptr));
        if (!code_) {
            throw Error(ErrorCode::kInternal,
                        fmt::format("pre-tokenizer regex, byte {}: {}", offset, pcre_message(code)));
        }
        // Without JIT (not built in, no executable memory) matching is slower, not wrong.
        pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
    }

    // Appends the matches in `text` (valid UTF-8) and the gaps between them.
    void split(std::string_view text, std::vector<std::string_view>& out) const {
        const std::unique_ptr<pcre2_match_data, MatchDataDeleter> match(pcre2_match_data_create(1, nullptr));
        const std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(pcre2_match_context_create(nullptr));
        if (!match || !context) throw Error(ErrorCode::kOutOfMemory, "no memory for a regex match");
        // The limit counts backtracking, which a long run of spaces needs; it is linear here.
        pcre2_set_match_limit(context.get(), UINT32_MAX);
        const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
        const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
        std::size_t done = 0;
        while (done < text.size()) {
            const int rc = pcre2_match(code_.get(), subject, text.size(), done, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                       match.get(), context.get());
            if (rc == PCRE2_ERROR_NOMATCH) break;
            if (rc < 0) {
                throw Error(ErrorCode::kInternal, fmt::format("pre-tokenizer regex: {}", pcre_message(rc)));
            }
            if (range[0] > done) out.push_back(text.substr(done, range[0] - done));
            out.push_back(text.substr(range[0], range[1] - range[0]));
            done = range[1];
        }
        if (done < text.size()) out.push_back(text.substr(done));
    }

private:
    std::unique_ptr<pcre2_code, CodeDeleter> code_;
};

PreTokenizer::PreTokenizer(std::string_view name) {
    const Known& rules = known(name);
    for (const std::string_view pattern : rules.patterns) {
        if (!pattern.empty()) regexes_.emplace_back(pattern);
    }
    ignores_merges_ = rules.ignores_merges;
    adds_bos_ = rules.adds_bos;
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&& other) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&& other) noexcept = default;

std::vector<std::string_view> PreTokenizer::names() {
    std::vector<std::string_view> names;
    for (const Known& k : kKnown) names.push_back(k.name);
    return names;
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        const std::size_t n_valid = run_bytes(text, true);
        std::vector<std::string_view> pieces;
        if (n_valid > 0) pieces.push_back(text.substr(0, n_valid));
        for (const Regex& regex : regexes_) {
            std::vector<std::string_view> finer;
            for (const std::string_view piece : pieces) regex.split(piece, finer);
            pieces = std::move(finer);
        }
        out.insert(out.end(), pieces.begin(), pieces.end());
        text.remove_prefix(n_valid);
        if (text.empty()) break;
        const std::size_t n_invalid = run_bytes(text, false);
        out.push_back(text.substr(0, n_invalid));
        text.remove_prefix(n_invalid);
    }
    return out;
}

}  // namespace winnow
