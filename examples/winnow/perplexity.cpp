// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/kl_divergence.h"
#include "examples/winnow/progress.h"
#include "examples/winnow/scoring.h"
#include "examples/winnow/terminal.h"
#include "models/model_config.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kDefaultWindow = 512;
constexpr std::uint32_t kLeastWindow = 4;

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
    double mean() const { return n_ == 0 ? 0 : sum_ / static_cast<double>(n_); }
    /// Standard error of the mean, carried through exp().
    double error() const {
        if (n_ < 2) return 0;
        const double variance = sum_of_squares_ / static_cast<double>(n_) - mean() * mean();
        return variance > 0 ? std::sqrt(variance / static_cast<double>(n_ - 1)) * perplexity() : 0;
    }

private:
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
    if (!text) throw Error(ErrorCode::kInvalidArgument, "no text: give one with -f FILE or -p TEXT");
    if (size < kLeastWindow) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("-c {}: a window needs at least {} tokens", size, kLeastWindow));
    }
    warn_of_missing_bytes(*vocabulary.tokenizer, *text);
    Windows windows;
    windows.size = size;
    windows.tokens = vocabulary.tokenizer->encode(*text, {.add_bos = true, .parse_special = false});
    windows.count = static_cast<std::uint32_t>(windows.tokens.size() / size);
    if (windows.count == 0) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the text has {} tokens but a window needs {}: give a longer text or a smaller -c",
                                windows.tokens.size(), size));
    }
    if (options.n_windows != 0) windows.count = std::min(windows.count, options.n_windows);
    return windows;
}

// What else happens to the logits of scored tokens: they are compared with those of --kl-divergence-base.
struct BaseComparison {
    explicit BaseComparison(const std::string& path) : logits(path) {}
    /// `row` of the whole text predicts `target`.
    void add(std::uint64_t row, std::span<const float> here, TokenId target) {
        divergences.add(logits.row(row), here, target);
    }
    BaseLogits logits;
    Divergences divergences;
};

// Scores the second half of a window: each of its tokens from all tokens before it in the window.
// Without `file` the logits of the first half are not computed at all.
void score_window(Session& session, std::span<const TokenId> window, std::uint64_t first_of_text, Score& score,
                  NpyFile* file, BaseComparison* base) {
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
            const std::span<const float> row = logits.subspan(i * n_vocab, n_vocab);
            score.add(negative_log_likelihood(row, log_sum_exp(row), window[predicted]));
            if (base != nullptr) base->add(first_of_text + predicted - 1, row, window[predicted]);
        }
    };
    session.evaluate(window.subspan(first_row), rows, proceed);
    throw_if_interrupted();
}

bool is_sparse(const Options& options) { return options.sparse.preset != "off" && options.sparse.preset != "dense"; }

// What sparse attention changes. Both score the same tokens, decoded one by one after a dense
// prefill of the first half of the window.
struct Comparison {
    Score dense, sparse;
    double divergence = 0;       // sum of KL(dense || sparse)
    double share = 0, mass = 0;  // sums over windows
    double least_mass = 1;
    std::uint32_t n_windows = 0;
    std::uint64_t n_audits = 0;

    double difference() const { return sparse.mean() - dense.mean(); }
    double kl() const { return divergence / static_cast<double>(sparse.n()); }
    double attended() const { return share / n_windows; }
    double captured() const { return mass / n_windows; }
};

// Puts the first n tokens of the window into the cache; windowed layers may have to start over.
void go_to(Session& session, std::span<const TokenId> window, std::size_t n) {
    session.truncate(static_cast<std::uint32_t>(n));
    session.prefill(window.first(n).subspan(session.n_cached()),
                    [](std::uint32_t, std::uint32_t) { return !interrupted(); });
    throw_if_interrupted();
}

void compare_window(Session& session, const SparseOptions& sparse, std::span<const TokenId> window,
                    std::uint64_t first_of_text, Comparison& sums, BaseComparison* base, const std::string& label) {
    const std::size_t n_vocab = session.shape().n_vocab;
    const std::size_t first_scored = window.size() / 2;
    session.truncate(0);
    session.use_sparse({});
    go_to(session, window, first_scored - 1);
    std::vector<float> dense;
    std::vector<double> dense_lse;
    Progress progress(label, Progress::Unit::kTokens);
    const std::size_t n_scored = window.size() - first_scored;
    for (std::size_t i = first_scored; i < window.size(); ++i) {
        throw_if_interrupted();
        progress.update(i - first_scored, 2 * n_scored);
        const std::span<const float> logits = session.decode_logits(window[i - 1]);
        dense.insert(dense.end(), logits.begin(), logits.end());
        dense_lse.push_back(log_sum_exp(logits));
        sums.dense.add(negative_log_likelihood(logits, dense_lse.back(), window[i]));
    }

    go_to(session, window, first_scored - 1);
    session.use_sparse(sparse);
    for (std::size_t i = first_scored; i < window.size(); ++i) {
        throw_if_interrupted();
        progress.update(n_scored + i - first_scored, 2 * n_scored);
        const std::span<const float> logits = session.decode_logits(window[i - 1]);
        const double lse = log_sum_exp(logits);
        sums.sparse.add(negative_log_likelihood(logits, lse, window[i]));
        if (base != nullptr) base->add(first_of_text + i - 1, logits, window[i]);
        const std::size_t row = i - first_scored;
        sums.divergence +=
            divergence(std::span<const float>(dense).subspan(row * n_vocab, n_vocab), dense_lse[row], logits, lse);
    }
    const SparseReport report = session.sparse_report();
    sums.share += report.attended_share;
    sums.mass += report.mass_mean;
    if (report.n_audits != 0) sums.least_mass = std::min(sums.least_mass, report.mass_min);
    sums.n_audits += report.n_audits;
    ++sums.n_windows;
}

std::string comparison_text(const Comparison& c, const std::string& preset) {
    std::string text = fmt::format(
        "\nFinal estimate: PPL = {:.4f} +/- {:.5f} with {}, {:.4f} +/- {:.5f} dense\n"
        "difference {:+.5f} nats, KL(dense || sparse) {:.5f}, {:.1f} % of the tokens attended",
        c.sparse.perplexity(), c.sparse.error(), preset, c.dense.perplexity(), c.dense.error(), c.difference(), c.kl(),
        100 * c.attended());
    if (c.n_audits != 0)
        text += fmt::format(", {:.4f} of the attention captured (at least {:.4f})", c.captured(), c.least_mass);
    return text + "\n";
}

void add_comparison(nlohmann::json& root, const Comparison& c, const std::string& preset) {
    root["preset"] = preset;
    root["ppl_dense"] = c.dense.perplexity();
    root["ppl_dense_error"] = c.dense.error();
    root["nll_delta"] = c.difference();
    root["kl_mean"] = c.kl();
    root["attended_share"] = c.attended();
    if (c.n_audits == 0) return;
    root["mass_mean"] = c.captured();
    root["mass_min"] = c.least_mass;
}

// The policy to compare: sparse from the first token on, unless --sparse-min-ctx says otherwise.
SparseOptions compared_policy(const Options& options) {
    SparseOptions sparse = sparse_options(options);
    if (sparse.overrides.min_ctx < 0) sparse.overrides.min_ctx = 0;
    return sparse;
}

// A cache that keeps everything, which the dense half of a comparison needs.
std::unique_ptr<Session> open_dense_session(const Options& options, ModelSource model, std::uint32_t n_ctx) {
    Options dense = options;
    dense.sparse = {};
    dense.audit.clear();
    return open_session(dense, std::move(model), n_ctx);
}

std::uint32_t window_size(const Options& options, const Vocabulary& vocabulary) {
    const std::uint32_t size = context_size(options, kDefaultWindow);
    return size != 0 ? size : trained_context(vocabulary.file);
}

}  // namespace

int run_perplexity(const Options& options) {
    const bool compares = is_sparse(options);
    if (compares && !options.logits_out.empty())
        throw Error(ErrorCode::kInvalidArgument, "--logits-out writes dense logits: leave out --sparse");
    if (options.kl_divergence && options.kl_base.empty())
        throw Error(ErrorCode::kInvalidArgument,
                    "--kl-divergence needs the logits to compare with: --kl-divergence-base FILE");
    // As in other programs, without --kl-divergence the base is what this run writes.
    const bool writes_base = !options.kl_base.empty() && !options.kl_divergence;
    if (writes_base && !options.logits_out.empty())
        throw Error(ErrorCode::kInvalidArgument, "--kl-divergence-base alone writes logits: leave out --logits-out");
    if (writes_base && compares)
        throw Error(ErrorCode::kInvalidArgument, "--kl-divergence-base alone writes dense logits: leave out --sparse");
    const std::string& output = writes_base ? options.kl_base : options.logits_out;
    std::unique_ptr<NpyFile> logits;
    if (!output.empty()) logits = std::make_unique<NpyFile>(output);
    std::unique_ptr<BaseComparison> base;
    if (options.kl_divergence) base = std::make_unique<BaseComparison>(options.kl_base);

    const Vocabulary vocabulary = open_vocabulary(options);
    const SparseOptions sparse = compared_policy(options);
    Windows windows = make_windows(options, vocabulary, window_size(options, vocabulary));
    const std::uint64_t n_scored_text = std::uint64_t{windows.count} * windows.size;
    if (base) base->logits.check(n_scored_text, read_model_shape(vocabulary.file).n_vocab);
    ModelSource model = open_model(vocabulary.path.string());
    if (compares) checked_policy(options, model, sparse);
    const std::unique_ptr<Session> session = open_dense_session(options, std::move(model), windows.size);
    if (logits) logits->begin(n_scored_text, session->shape().n_vocab);

    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    Score dense;
    Comparison comparison;
    const Score& score = compares ? comparison.sparse : dense;
    nlohmann::json running = nlohmann::json::array();
    if (compares)
        write_err(
            fmt::format("{} windows of {} tokens; the second half of each is decoded token by token, dense and "
                        "then with {}\n",
                        windows.count, windows.size, sparse.preset));
    for (std::uint32_t i = 0; i < windows.count; ++i) {
        const std::size_t first = std::size_t{i} * windows.size;
        const std::span<TokenId> window = std::span(windows.tokens).subspan(first, windows.size);
        if (vocabulary.tokenizer->adds_bos()) window[0] = vocabulary.tokenizer->bos();
        if (compares)
            compare_window(*session, sparse, window, first, comparison, base.get(),
                           fmt::format("window {} of {}", i + 1, windows.count));
        else score_window(*session, window, first, dense, logits.get(), base.get());
        if (i == 0) {
            write_err(fmt::format("{:.2f} seconds per pass - ETA {:.2f} minutes\n", elapsed(),
                                  elapsed() * (windows.count - 1) / 60));
        }
        running.push_back(score.perplexity());
        if (!options.json) write_out(fmt::format("[{}]{:.4f},", i + 1, score.perplexity()));
    }
    if (logits) logits->commit();
    if (options.json) {
        nlohmann::json root = {{"ppl", score.perplexity()}, {"ppl_error", score.error()}, {"n_windows", windows.count},
                               {"n_ctx", windows.size},     {"n_scored", score.n()},      {"seconds", elapsed()},
                               {"running", running}};
        if (compares) add_comparison(root, comparison, sparse.preset);
        if (base) base->divergences.add_to(root);
        write_out(root.dump() + "\n");
    } else if (compares) {
        write_out(comparison_text(comparison, sparse.preset));
    } else {
        write_out(fmt::format("\nFinal estimate: PPL = {:.4f} +/- {:.5f}\n", score.perplexity(), score.error()));
    }
    if (base && !options.json) write_out(base->divergences.text());
    return 0;
}

}  // namespace winnow::program
