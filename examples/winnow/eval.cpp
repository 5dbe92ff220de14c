// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <span>
#include <string>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/eval_probes.h"
#include "examples/winnow/eval_report.h"
#include "examples/winnow/file_io.h"
#include "examples/winnow/interrupt.h"
#include "examples/winnow/progress.h"
#include "examples/winnow/scoring.h"
#include "examples/winnow/split.h"
#include "examples/winnow/terminal.h"
#include "models/calibration/repeat_check.h"
#include "models/model_config.h"
#include "models/session_plan.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kWindowBaseline = 256;  // tokens; what a model without long context would see
constexpr std::uint32_t kProbeTokens = 2048;    // of a recall probe, unless the preset attends to half of them anyway
constexpr std::uint32_t kLeastContext = 512;    // in which the probes' facts still lie apart
constexpr std::uint32_t kProbeSeed = 20261123;
constexpr std::uint32_t kRepeatPeriod = 1024;  // tokens from a token to its copy

TokenId argmax(std::span<const float> logits) {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

bool begins_with(const std::vector<TokenId>& tokens, std::span<const TokenId> start) {
    return tokens.size() >= start.size() && std::equal(start.begin(), start.end(), tokens.begin());
}

// Leaves just these tokens in the cache. Windowed layers may have overwritten what they saw at that place: then all is
// prefilled again, and densely, since local heads of a policy would see a window only. @returns whether it was.
bool restore(Session& session, std::span<const TokenId> tokens, const std::string& label) {
    const auto n = static_cast<std::uint32_t>(tokens.size());
    if (begins_with(session.tokens(), tokens) && session.truncate(n) == n) return false;
    session.truncate(0);
    session.use_sparse({});
    Progress progress(label, Progress::Unit::kTokens);
    session.prefill(tokens, [&](std::uint32_t done, std::uint32_t total) {
        throw_if_interrupted();
        progress.update(done, total);
        return true;
    });
    progress.clear();
    return true;
}

SparseOptions way_of(const SparseOptions& flags, const std::string& preset, std::uint32_t audit) {
    const bool is_dense = preset == "dense" || preset == "off";
    SparseOptions sparse = is_dense ? SparseOptions{} : flags;
    sparse.preset = preset;
    sparse.overrides.min_ctx = std::max(flags.overrides.min_ctx, 0);
    sparse.audit_every = is_dense ? 0 : audit;
    return sparse;
}

// Tokens below which the policy leaves nothing out.
std::uint32_t always_attended(const SparsePolicy& policy, std::uint32_t n_ctx) {
    std::uint32_t most = 0;
    if (!policy.levels.empty() && policy.levels.back().rule == BudgetRule::kTopK) most = policy.levels.back().budget;
    if (policy.levels.empty() && !policy.is_dense() && policy.value_skip == 0) most = policy.sink + policy.window;
    if (!policy.local_heads.empty()) most = std::max(most, policy.sink + local_window(policy, n_ctx));
    return std::min(most, n_ctx);
}

// The scored positions of the text, dense: what every preset is compared with.
struct Baseline {
    std::vector<std::vector<float>> logits;
    std::vector<double> lse;
    double nll = 0;
    double window_nll = 0;
};

class Evaluation {
public:
    Evaluation(Session& session, const Tokenizer& tokenizer, std::vector<TokenId> text, std::uint32_t n_ctx,
               std::uint32_t n_positions, const SessionOptions& options)
        : session_(session),
          tokenizer_(tokenizer),
          text_(std::move(text)),
          n_prefill_(n_ctx - n_positions),
          n_positions_(n_positions),
          n_ctx_(n_ctx),
          sparse_(options.sparse),
          kv_type_(options.kv_type),
          n_chunk_(session.n_chunk()) {}

    /// `n_probes`: tokens of the recall probes of each preset. Presets that always attend to much need longer ones, and
    /// each is compared with dense attention at its own length: a row does not depend on which other presets are there.
    std::vector<EvalRow> run(const std::vector<std::string>& presets, const std::vector<std::uint32_t>& n_probes) {
        std::map<std::uint32_t, std::vector<std::pair<std::string, Probe>>> probes;
        for (const std::uint32_t n : n_probes)
            if (!probes.contains(n)) probes[n] = make_probes(n);  // that they fit is checked before minutes of work
        for (std::size_t i = 0; i < presets.size(); ++i) {
            rows_.emplace_back();
            rows_.back().preset = presets[i];
            rows_.back().n_ctx = n_ctx_;
            rows_.back().n_probe = n_probes[i];
        }
        evaluate_text();
        for (const auto& [n, of_length] : probes)
            for (const auto& [label, probe] : of_length) evaluate_probe(probe, label, n);
        evaluate_repeats();
        return rows_;
    }

private:
    std::vector<std::pair<std::string, Probe>> make_probes(std::uint32_t n) const {
        const std::vector<TokenId> filler(text_.begin(),
                                          text_.begin() + std::min<std::ptrdiff_t>(n, std::ssize(text_)));
        std::vector<std::pair<std::string, Probe>> probes = {
            {"needles", make_needle_probe(tokenizer_, filler, n - 64, kProbeSeed)},
            {"copy", make_copy_probe(tokenizer_, filler, n - 64, kProbeSeed)},
            {"aggregation", make_aggregate_probe(tokenizer_, n - 64, kProbeSeed)}};
        for (const auto& [label, probe] : probes)
            if (probe.n_tokens() > n_ctx_)
                throw Error(ErrorCode::kInvalidArgument,
                            fmt::format("-c {} is too short for the probe of {}, which takes {} of this model's "
                                        "tokens: use -c {} or more",
                                        n_ctx_, label, probe.n_tokens(), probe.n_tokens()));
        return probes;
    }

    SparseOptions sparse_of(const std::string& preset, std::uint32_t audit) const {
        return way_of(sparse_, preset, audit);
    }

    // Decodes the positions after the prefill one by one; visit(i, logits) for each. @returns seconds.
    template <typename Visit>
    double decode_positions(const SparseOptions& way, Visit&& visit) {
        restore(session_, std::span(text_).first(n_prefill_), "prefill");
        session_.use_sparse(way);
        const auto begin = std::chrono::steady_clock::now();
        for (std::uint32_t i = 0; i < n_positions_; ++i) {
            throw_if_interrupted();
            visit(i, session_.decode_logits(text_[n_prefill_ + i]));
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    TokenId target(std::uint32_t i) const { return text_[n_prefill_ + i + 1]; }

    void evaluate_text() {
        Baseline base;
        announce_step(fmt::format("dense: {} positions after {} tokens", n_positions_, n_prefill_));
        decode_positions(sparse_of("off", 0), [&](std::uint32_t i, std::span<const float> logits) {
            base.logits.emplace_back(logits.begin(), logits.end());
            base.lse.push_back(log_sum_exp(logits));
            base.nll += negative_log_likelihood(logits, base.lse.back(), target(i)) / n_positions_;
        });
        const double dense_bytes = session_.sparse_report().kv_bytes_per_token;

        SparseOptions window;
        window.preset = "streaming";
        window.overrides.window = kWindowBaseline;
        window.overrides.min_ctx = 0;
        announce_step(fmt::format("window of {} tokens: the same positions", kWindowBaseline));
        decode_positions(window, [&](std::uint32_t i, std::span<const float> logits) {
            base.window_nll += negative_log_likelihood(logits, log_sum_exp(logits), target(i)) / n_positions_;
        });

        for (EvalRow& row : rows_) {
            std::vector<double> divergences;
            std::uint32_t n_agree = 0;
            announce_step(row.preset + ": the same positions");
            row.seconds =
                decode_positions(sparse_of(row.preset, 1), [&](std::uint32_t i, std::span<const float> logits) {
                    const double lse = log_sum_exp(logits);
                    row.nll += negative_log_likelihood(logits, lse, target(i)) / n_positions_;
                    const std::vector<float>& dense = base.logits[i];
                    divergences.push_back(divergence(dense, base.lse[i], logits, lse));
                    n_agree += argmax(logits) == argmax(dense) ? 1 : 0;
                });
            row.nll_delta = row.nll - base.nll;
            for (const double kl : divergences) row.kl_mean += kl / static_cast<double>(divergences.size());
            std::sort(divergences.begin(), divergences.end());
            row.kl_p99 = divergences[divergences.size() * 99 / 100];
            row.top1_agree = static_cast<double>(n_agree) / n_positions_;
            const double gain = base.window_nll - base.nll;
            row.long_range_gain = gain > 1e-4 ? (base.window_nll - row.nll) / gain : 1;
            row.report = session_.sparse_report();
            row.bytes_per_token = row.report.n_steps == 0 ? dense_bytes : row.report.kv_bytes_per_token;
            // Not this session's: its cache serves every preset, so that all look at the same prefill.
            row.kv_bytes =
                planned_kv_bytes(session_.shape(), kv_type_, session_.n_ctx(), n_chunk_, session_.sparse_policy());
            log_info(fmt::format("{}: share {:.3f}, NLL {:+.4f}, {:.0f} s", row.preset, row.report.attended_share,
                                 row.nll_delta, row.seconds));
        }
    }

    struct Answer {
        double nll = 0;  // nats per answer token
        double accuracy = 0;
    };
    std::vector<Answer> answers(const Probe& probe, const std::string& label, const SparseOptions& way) {
        std::vector<Answer> list;
        for (const Probe::Question& question : probe.questions) {
            if (restore(session_, probe.context, label) || list.empty()) session_.use_sparse(way);
            std::vector<TokenId> fed = question.query;
            fed.insert(fed.end(), question.answer.begin(), question.answer.end() - 1);
            Answer answer;
            for (std::size_t i = 0; i < fed.size(); ++i) {
                throw_if_interrupted();
                const std::span<const float> logits = session_.decode_logits(fed[i]);
                if (i + 1 < question.query.size()) continue;
                const TokenId wanted = question.answer[i + 1 - question.query.size()];
                const double n = static_cast<double>(question.answer.size());
                answer.nll += negative_log_likelihood(logits, log_sum_exp(logits), wanted) / n;
                answer.accuracy += (argmax(logits) == wanted ? 1.0 : 0.0) / n;
            }
            list.push_back(answer);
        }
        return list;
    }

    void evaluate_probe(const Probe& probe, const std::string& label, std::uint32_t n_probe) {
        announce_step(fmt::format("{}: {} tokens, {} questions", label, probe.context.size(), probe.questions.size()));
        const std::vector<Answer> dense = answers(probe, label, sparse_of("off", 0));
        for (EvalRow& row : rows_) {
            if (row.n_probe != n_probe) continue;
            const std::vector<Answer> sparse = answers(probe, label, sparse_of(row.preset, 0));
            std::map<std::string, std::pair<double, int>> by_kind;
            for (std::size_t i = 0; i < sparse.size(); ++i) {
                auto& [sum, n] = by_kind[probe.questions[i].kind];
                sum += sparse[i].nll - dense[i].nll;
                ++n;
                if (probe.questions[i].kind == "copy") {
                    row.copy_acc = sparse[i].accuracy;
                    row.dense_copy_acc = dense[i].accuracy;
                }
            }
            double mean = 0;
            for (const auto& [kind, value] : by_kind) {
                const double delta = value.first / value.second;
                mean += delta / static_cast<double>(by_kind.size());
                if (kind != "copy" && kind != "aggregate") row.needle_deltas[kind] = delta;
                if (kind == "aggregate") row.aggregate_nll_delta = delta;
            }
            if (label == "needles") row.needle_nll_delta = mean;
            log_info(fmt::format("{}: NLL {:+.4f} in the answers to {}", row.preset, mean, label));
        }
    }

    // Copying needs heads that look back beyond every window: plain text would not show a lack of
    // them.
    void evaluate_repeats() {
        std::vector<SparseOptions> ways{sparse_of("off", 0)};
        for (const EvalRow& row : rows_) ways.push_back(sparse_of(row.preset, 0));
        const std::uint32_t period = std::min(kRepeatPeriod, n_ctx_ / 2 - 48);
        announce_step("repeated random tokens");
        Progress progress("repeats", Progress::Unit::kTokens);
        const std::vector<double> found = repeat_perplexities(session_, TokenPool(tokenizer_), ways, period,
                                                              [&](std::uint64_t done, std::uint64_t total) {
                                                                  throw_if_interrupted();
                                                                  progress.update(done, total);
                                                              });
        progress.clear();
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            rows_[i].dense_repeat_ppl = found[0];
            rows_[i].repeat_ppl = found[i + 1];
        }
    }

    Session& session_;
    const Tokenizer& tokenizer_;
    std::vector<TokenId> text_;
    std::uint32_t n_prefill_, n_positions_, n_ctx_;
    SparseOptions sparse_;  // what the flags ask of every preset
    KvType kv_type_;
    std::uint32_t n_chunk_;
    std::vector<EvalRow> rows_;
};

}  // namespace

int run_eval(const Options& options) {
    const Vocabulary vocabulary = open_vocabulary(options);
    const std::optional<std::string> text = prompt_text(options);
    if (!text) throw Error(ErrorCode::kInvalidArgument, "no text: give one with -f FILE");
    warn_of_missing_bytes(*vocabulary.tokenizer, *text);
    std::vector<TokenId> tokens = vocabulary.tokenizer->encode(*text, {.add_bos = true, .parse_special = false});
    const std::uint32_t n_ctx = context_size(options, 4096);
    const std::uint32_t n_positions = options.eval.n_positions;
    const std::uint32_t least = std::max(n_positions + kWindowBaseline, kLeastContext);
    if (n_ctx < least)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("-c {} is too short for {} scored positions and the probes: use -c {} or more{}", n_ctx,
                                n_positions, least, least > kLeastContext ? ", or fewer --positions" : ""));
    if (tokens.size() < n_ctx + 1)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the text has {} tokens but -c {} needs one more than that: give a "
                                "longer text or a smaller -c",
                                tokens.size(), n_ctx));
    tokens.resize(n_ctx + 1);
    std::vector<std::string> presets = split(options.eval.presets, ',');
    std::erase(presets, "");
    for (const std::string& preset : presets)
        if (preset == "auto" && options.sparse.preset != "auto") calibrate_for_auto(options);
    const SparseOptions flags = sparse_options(options);
    ModelSource model = open_model(vocabulary.path.string());
    std::vector<std::uint32_t> n_probes;
    for (const std::string& preset : presets) {
        const SparsePolicy policy = checked_policy(options, model, way_of(flags, preset, 1));
        n_probes.push_back(std::min(std::max(kProbeTokens, 2 * always_attended(policy, n_ctx)), n_ctx));
    }
    check_writable(options.eval.json_file);
    check_writable(options.eval.plot_file);
    for (const std::string& preset : presets)
        if (preset != options.sparse.preset) warn_of_weak_calibration(options, preset);
    Options dense = options;
    dense.sparse = {};
    const std::unique_ptr<Session> session = open_session(dense, std::move(model), n_ctx);
    Evaluation evaluation(*session, *vocabulary.tokenizer, std::move(tokens), n_ctx, n_positions,
                          session_options(options, session->shape(), n_ctx));
    const std::vector<EvalRow> rows = evaluation.run(presets, n_probes);
    write_out(eval_table(rows));
    const auto save = [](const std::string& path, const std::string& text_bytes) {
        if (path.empty()) return;
        OutputFile file(path);
        file.write(text_bytes);
        file.commit();
    };
    save(options.eval.json_file, eval_json(rows));
    save(options.eval.plot_file,
         eval_svg(rows, session->shape().n_layers, session->shape().n_heads, session->shape().n_kv_heads));
    return 0;
}

}  // namespace winnow::program
