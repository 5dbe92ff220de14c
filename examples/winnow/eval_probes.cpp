// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/eval_probes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

namespace winnow::program {
namespace {

constexpr std::uint32_t kBlock = 64;
constexpr std::array<const char*, 14> kNames = {"Alice", "Bertram", "Clara", "Dmitri", "Eleanor", "Farid", "Greta",
                                                "Hugo",  "Ingrid",  "Jamal", "Katya",  "Leopold", "Marta", "Nikolai"};

std::vector<TokenId> encode(const Tokenizer& tokenizer, const std::string& text, bool bos = false) {
    return tokenizer.encode(text, {.add_bos = bos, .parse_special = false});
}

std::string digits(std::mt19937& random) { return std::to_string(10000 + random() % 90000); }

}  // namespace

Probe make_needle_probe(const Tokenizer& tokenizer, const std::vector<TokenId>& filler, std::uint32_t n_tokens,
                        std::uint32_t seed) {
    std::mt19937 random(seed);
    Probe probe;
    if (tokenizer.adds_bos()) probe.context.push_back(tokenizer.bos());
    std::size_t next_name = 0;
    const auto hide = [&](const char* kind) {
        const std::string name = kNames[next_name++];
        const std::string code = digits(random);
        const auto fact = encode(tokenizer, fmt::format(" The secret code of {} is {}.", name, code));
        probe.context.insert(probe.context.end(), fact.begin(), fact.end());
        probe.questions.push_back(
            {kind,
             encode(tokenizer, fmt::format("\nQuestion: what is the secret code of {}?\nAnswer: The secret "
                                           "code of {} is",
                                           name, name)),
             encode(tokenizer, " " + code)});
    };
    std::size_t at = 0;
    const auto fill_to = [&](std::uint32_t length) {
        while (probe.context.size() < length) probe.context.push_back(filler[at++ % filler.size()]);
    };
    hide("start");
    fill_to(n_tokens / 3);
    hide("single");
    // A fact that begins a few tokens before a block ends.
    fill_to((n_tokens / 2 + kBlock - 1) / kBlock * kBlock - 5);
    hide("block_edge");
    for (int i = 0; i < 8; ++i) {
        fill_to(n_tokens / 2 + n_tokens / 32 * static_cast<std::uint32_t>(i + 1));
        hide("multi_key");
    }
    const std::uint32_t end = (n_tokens - 24) / kBlock * kBlock + 2;  // just after a block begins
    fill_to(end);
    hide("open_block");
    return probe;
}

std::size_t Probe::n_tokens() const {
    std::size_t most = 0;
    for (const Question& q : questions) most = std::max(most, q.query.size() + q.answer.size());
    return context.size() + most;
}

Probe make_copy_probe(const Tokenizer& tokenizer, const std::vector<TokenId>& filler, std::uint32_t n_tokens,
                      std::uint32_t seed) {
    constexpr std::uint32_t kCopied = 48;
    std::mt19937 random(seed);
    Probe probe;
    if (tokenizer.adds_bos()) probe.context.push_back(tokenizer.bos());
    std::vector<TokenId> secret;
    while (secret.size() < kCopied) {
        const auto id = static_cast<TokenId>(random() % tokenizer.n_vocab());
        if (!tokenizer.is_control(id) && !tokenizer.piece(id).empty()) secret.push_back(id);
    }
    probe.context.insert(probe.context.end(), secret.begin(), secret.end());
    for (std::size_t i = 0; probe.context.size() + kCopied < n_tokens; ++i)
        probe.context.push_back(filler[i % filler.size()]);
    // The first tokens of the second copy only point at the first.
    probe.questions.push_back({"copy", {secret.begin(), secret.begin() + 4}, {secret.begin() + 4, secret.end()}});
    return probe;
}

Probe make_aggregate_probe(const Tokenizer& tokenizer, std::uint32_t n_tokens, std::uint32_t seed) {
    static constexpr std::array<const char*, 8> words = {"apple", "river", "stone", "cloud",
                                                         "tiger", "bread", "chair", "music"};
    std::mt19937 random(seed);
    const std::string winner = words[random() % words.size()];
    std::string text = "Here is a list of words:";
    Probe probe;
    while (true) {
        for (int i = 0; i < 8; ++i)
            text += fmt::format(" {}", random() % 3 == 0 ? winner : words[random() % words.size()]);
        std::vector<TokenId> longer = encode(tokenizer, text, true);
        if (!probe.context.empty() && longer.size() > n_tokens) break;
        probe.context = std::move(longer);
    }
    probe.questions.push_back({"aggregate", encode(tokenizer, ".\nThe word that appears most often in the list is"),
                               encode(tokenizer, " " + winner)});
    return probe;
}

}  // namespace winnow::program
