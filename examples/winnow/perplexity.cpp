// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <span>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kDefaultWindow = 512;
constexpr std::uint32_t kLeastWindow = 4;

// -log p of `target` under softmax(logits), in double.
double negative_log_likelihood(std::span<const float> logits, TokenId target) {
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
    return std::log(sum) + most - static_cast<double>(logits[static_cast<std::size_t>(target)]);
}

// Mean and spread of the negative log likelihoods seen so far.
class Score {
public:
    void add(double nll) {
        ++n_;
        sum_ += nll;
        sum_of_squares_ += nll * nll;
    }
    std::uint64_t n() const { return n_; }
    double perplexity() const { return std::exp(mean()); }
    /// Standard error of the mean, carried through exp().
    double error() const {
        if (n_ < 2) return 0;
        const double variance = sum_of_squares_ / static_cast<double>(n_) - mean() * mean();
        return variance > 0 ? std::sqrt(variance / static_cast<double>(n_ - 1)) * perplexity() : 0;
    }

private:
    double mean() const { return n_ == 0 ? 0 : sum_ / static_cast<double>(n_); }
    std::uint64_t n_ = 0;
    double sum_ = 0;
    double sum_of_squares_ = 0;
};

struct Windows {
    std::vector<TokenId> tokens;
    std::uint32_t size = 0;
    std::uint32_t count = 0;
};

Windows make_windows(const Options& options, const Vocabulary& vocabulary, std::uint32_t size) {
    const std::optional<std::string> text = prompt_text(options);
    if (!text)
        throw Error(ErrorCode::kInvalidArgument, "no text: give one with -f FILE or -p TEXT");
    if (size < kLeastWindow) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("-c {}: a window needs at least {} tokens", size, kLeastWindow));
    }
    Windows windows;
    windows.size = size;
    windows.tokens = vocabulary.tokenizer->encode(*text, {.add_bos = true, .parse_special = false});
    windows.count = static_cast<std::uint32_t>(windows.tokens.size() / size);
    if (windows.count == 0) {
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format(
                "the text has {} tokens but a window needs {}: give a longer text or a smaller -c",
                windows.tokens.size(), size));
    }
    if (options.n_windows != 0) windows.count = std::min(windows.count, options.n_windows);
    return windows;
}

// Scores the second half of a window: each of its tokens from all tokens before it in the window.
// Without `file` the logits of the first half are not computed at all.
void score_window(Session& session, std::span<const TokenId> window, Score& score, NpyFile* file) {
    const std::size_t n_vocab = session.shape().n_vocab;
    const std::size_t first_scored = window.size() / 2;
    const std::size_t first_row = file != nullptr ? 0 : first_scored - 1;
    const auto proceed = [](std::uint32_t, std::uint32_t) { return !interrupted(); };
    session.truncate(0);
    if (first_row > 0) session.prefill(window.first(first_row), proceed);
    throw_if_interrupted();
    const auto rows = [&](std::uint32_t first, std::span<const float> logits) {
        throw_if_interrupted();
        if (file != nullptr) file->append(logits);
        for (std::size_t i = 0; i * n_vocab < logits.size(); ++i) {
            const std::size_t predicted = first_row + first + i + 1;
            if (predicted < first_scored || predicted >= window.size()) continue;
            score.add(
                negative_log_likelihood(logits.subspan(i * n_vocab, n_vocab), window[predicted]));
        }
    };
    session.evaluate(window.subspan(first_row), rows, proceed);
    throw_if_interrupted();
}

std::uint32_t window_size(const Options& options, const Vocabulary& vocabulary) {
    const std::uint32_t size = context_size(options, kDefaultWindow);
    return size != 0 ? size : trained_context(vocabulary.file);
}

}  // namespace

int run_perplexity(const Options& options) {
    std::unique_ptr<NpyFile> logits;
    if (!options.logits_out.empty()) logits = std::make_unique<NpyFile>(options.logits_out);

    const Vocabulary vocabulary = open_vocabulary(options);
    Windows windows = make_windows(options, vocabulary, window_size(options, vocabulary));
    const std::unique_ptr<Session> session = open_session(options, vocabulary, windows.size);
    if (logits)
        logits->begin(std::uint64_t{windows.count} * windows.size, session->shape().n_vocab);

    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    const auto elapsed = [start] {
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    Score score;
    nlohmann::json running = nlohmann::json::array();
    for (std::uint32_t i = 0; i < windows.count; ++i) {
        const std::span<TokenId> window =
            std::span(windows.tokens).subspan(std::size_t{i} * windows.size, windows.size);
        if (vocabulary.tokenizer->adds_bos()) window[0] = vocabulary.tokenizer->bos();
        score_window(*session, window, score, logits.get());
        if (i == 0) {
            write_err(fmt::format("{:.2f} seconds per pass - ETA {:.2f} minutes\n", elapsed(),
                                  elapsed() * (windows.count - 1) / 60));
        }
        running.push_back(score.perplexity());
        if (!options.json) write_out(fmt::format("[{}]{:.4f},", i + 1, score.perplexity()));
    }
    if (logits) logits->commit();
    if (options.json) {
        const nlohmann::json root = {{"ppl", score.perplexity()},  {"ppl_error", score.error()},
                                     {"n_windows", windows.count}, {"n_ctx", windows.size},
                                     {"n_scored", score.n()},      {"seconds", elapsed()},
                                     {"running", running}};
        write_out(root.dump() + "\n");
    } else {
        write_out(fmt::format("\nFinal estimate: PPL = {:.4f} +/- {:.5f}\n", score.perplexity(),
                              score.error()));
    }
    return 0;
}

}  // namespace winnow::program
