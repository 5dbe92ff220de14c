// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "models/calibration/head_roles.h"
#include "models/calibration/preset_settings.h"
#include "models/calibration/repeat_check.h"
#include "models/calibration/text_analysis.h"
#include "models/sidecar.h"

namespace winnow {
namespace {

constexpr std::uint32_t kTextTokens = 1024, kQuickTextTokens = 768;
constexpr std::uint32_t kHeldOutTokens = 4096, kLeastHeldOut = 512;
constexpr std::uint32_t kPeriod = 512, kQuickPeriod = 384;
constexpr std::uint32_t kRepeatRows = 96;
constexpr std::uint32_t kRepeatSeed = 20261123;
constexpr double kRandomShare = 0.25;   // of random tokens in the moments: text alone copies worse
constexpr std::uint32_t kSinks = 4;     // always attended, and unlike other keys: no part of the moments
constexpr std::uint32_t kAnchors = 5;
constexpr float kTargetMass = 0.9f;     // of the settings of presets
constexpr std::uint32_t kSettingSteps = 4, kLeastSettingText = 1024;  // in less, sinks and window are most of it
constexpr double kSafe = 1.15;          // repeat perplexity with roles over the dense one
constexpr std::uint32_t kMostWidenings = 6;
constexpr float kWidening = 0.05f / 0.14f;

class Calibrator {
public:
    Calibrator(Session& session, const CalibrationInput& input, const CalibrateOptions& options, CalibrationReport& report)
        : session_(session), shape_(session.shape()), input_(input), options_(options), report_(report), clock_(report.phases) {
        for (const LayerShape& layer : shape_.layers) ropes_.emplace_back(shape_, layer);
        c_ = assume_calibration(shape_);
        if (options.index_dim != 0) c_.index_dim = options.index_dim;
        c_.target_ctx = options.target_ctx != 0 ? options.target_ctx : std::min(shape_.n_ctx_train, 32768u);
        const std::size_t n_kv = c_.temperatures.size();
        c_.index_maps.assign(n_kv * 2 * c_.index_dim * c_.head_dim, 0);
        c_.index_pairs.assign(n_kv * c_.index_dim, 0);
        c_.mass = 0;
    }

    Calibration run() {
        session_.use_sparse({});
        random_pass();
        const std::uint32_t n_text = std::min<std::uint32_t>(options_.quick ? kQuickTextTokens : kTextTokens, session_.n_ctx());
        const std::vector<TokenId>& text = input_.text;
        std::vector<TokenId> tokens(text.begin(), text.begin() + std::min<std::ptrdiff_t>(n_text, std::ssize(text)));
        std::vector<TokenId> held(text.begin() + std::ssize(tokens), text.end());
        held.resize(std::min<std::size_t>({held.size(), kHeldOutTokens, session_.n_ctx()}));
        if (options_.quick || held.size() < std::min(kLeastHeldOut, session_.n_ctx())) held.clear();
        report_.n_text = static_cast<std::uint32_t>(tokens.size());
        report_.n_held_out = static_cast<std::uint32_t>(held.size());

        // The text that is judged carries a needle at both ends; without a held-out text it is the one that gives the moments.
        TextAnalysis analysis(shape_, held.empty() ? tokens : held, input_.needle, held.empty() ? options_.quick : false);
        if (held.empty()) {
            text_moments_ = moments_of(analysis.tokens(), "text", &analysis.sample());
            fit();
        } else {
            text_moments_ = moments_of(tokens, "text", nullptr);
            fit();
            clock_.enter("prefill");
            session_.truncate(0);
            session_.capture(
                analysis.tokens(),
                [&](std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries) {
                    if (is_full(layer)) analysis.sample().collect(layer, first, queries);
                },
                progress("held-out text"));
            add_variants(analysis);
        }
        analyse(analysis);
        mark_roles();
        tune_presets();
        check_and_widen_roles();
        recommend();
        session_.truncate(0);
        return c_;
    }

private:
    bool is_full(std::uint32_t layer) const { return shape_.layers[layer].window == 0; }

    Session::Progress progress(const std::string& step) const {
        return [this, step](std::uint32_t done, std::uint32_t total) {
            if (options_.on_progress) options_.on_progress(step, done, total);
            return true;
        };
    }

    // Prefills the tokens; moments before RoPE of every full layer.
    std::vector<Moments> moments_of(const std::vector<TokenId>& tokens, const std::string& step, QuerySample* sample) {
        std::vector<Moments> sums(std::size_t{shape_.n_layers} * shape_.n_kv_heads);
        const std::uint32_t n_group = shape_.n_group(), dim = shape_.head_dim;
        const auto add = [&](std::uint32_t layer, std::uint32_t first, const Rows& rows, auto&& sum) {
            Eigen::MatrixXf x = rows;
            ropes_[layer].rotate(x, first, -1);
            const Eigen::Index skip = std::min<Eigen::Index>(first < kSinks ? kSinks - first : 0, x.rows());
            sum(x.bottomRows(x.rows() - skip));
        };
        clock_.enter("prefill");
        session_.truncate(0);
        session_.capture(
            tokens,
            [&](std::uint32_t layer, std::uint32_t first, std::span<const std::uint16_t> queries) {
                if (!is_full(layer)) return;
                const std::string was = clock_.enter("moments");
                if (sample != nullptr) sample->collect(layer, first, queries);
                parallel_for(shape_.n_kv_heads, [&](std::size_t h) {
                    Moments& m = sums[layer * shape_.n_kv_heads + h];
                    for (std::uint32_t g = 0; g < n_group; ++g)
                        add(layer, first, head_rows(queries, shape_.n_heads, static_cast<std::uint32_t>(h) * n_group + g, dim),
                            [&](const auto& x) { m.add_queries(x); });
                });
                clock_.enter(was);
            },
            progress(step));
        clock_.enter("moments");
        for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
            if (!is_full(layer)) continue;
            const std::vector<std::uint16_t> keys = session_.cached_keys(layer);
            parallel_for(shape_.n_kv_heads, [&](std::size_t h) {
                Moments& m = sums[layer * shape_.n_kv_heads + h];
                add(layer, 0, head_rows(keys, shape_.n_kv_heads, static_cast<std::uint32_t>(h), dim),
                    [&](const auto& x) { m.add_keys(x); });
            });
        }
        return sums;
    }

    // Repeated random tokens: moments, and which heads find the earlier copy.
    void random_pass() {
        const std::uint32_t period = std::min(options_.quick ? kQuickPeriod : kPeriod, session_.n_ctx() / 2 - 1);
        const std::uint32_t n_copies = 2;
        std::vector<TokenId> tokens = random_text(input_.pool, period, kRepeatSeed);
        const std::uint32_t n = std::min(period * n_copies, session_.n_ctx());
        for (std::uint32_t i = period; i < n; ++i) tokens.push_back(tokens[i - period]);
        std::vector<std::uint32_t> rows;
        for (std::uint32_t i = 0; i < kRepeatRows; ++i) rows.push_back(period + i * (n - period) / kRepeatRows);
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
        QuerySample sample(shape_, rows);
        random_moments_ = moments_of(tokens, "random tokens", &sample);
        report_.n_random = n;
        clock_.enter("scores of heads");
        for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
            if (!is_full(layer)) continue;
            const std::vector<std::uint16_t> keys = session_.cached_keys(layer);
            parallel_for(shape_.n_heads, [&](std::size_t h) {
                const auto head = static_cast<std::uint32_t>(h);
                const Rows k = head_rows(keys, shape_.n_kv_heads, head / shape_.n_group(), shape_.head_dim);
                const RepeatScores scores = score_repeats(attention(sample.queries(layer, head), k, rows), rows, period);
                c_.induction[layer * shape_.n_heads + h] = scores.induction;
                c_.echo[layer * shape_.n_heads + h] = scores.echo;
            });
        }
    }

    IndexMoments index_moments(std::size_t head) const {
        const Moments mixed = text_moments_[head].mixed_with(random_moments_[head], kRandomShare);
        return spread_moments_up_to(mixed, ropes_[head / shape_.n_kv_heads], c_.target_ctx);
    }

    void fit() {
        clock_.enter("fit");
        fits_.resize(text_moments_.size());
        const std::size_t size = std::size_t{c_.index_dim} * c_.head_dim;
        parallel_for(fits_.size(), [&](std::size_t head) {
            const auto layer = static_cast<std::uint32_t>(head) / shape_.n_kv_heads;
            if (!is_full(layer)) return;
            const IndexMoments moments = index_moments(head);
            fits_[head] = fit_index(moments, c_.index_dim);
            Eigen::Map<Rows>(c_.index_maps.data() + head * 2 * size, c_.index_dim, c_.head_dim) = fits_[head].a;
            Eigen::Map<Rows>(c_.index_maps.data() + (head * 2 + 1) * size, c_.index_dim, c_.head_dim) = fits_[head].b;
            const auto dims = best_pair_dims(moments, ropes_[layer], c_.index_dim);
            std::copy(dims.begin(), dims.end(), c_.index_pairs.begin() + static_cast<std::ptrdiff_t>(head * c_.index_dim));
        });
    }

    // Indexes that the report compares on the held-out text.
    void add_variants(TextAnalysis& analysis) {
        clock_.enter("fit");
        const auto all = [&](const std::string& name, bool int8, auto&& make) {
            std::vector<IndexFit> fits(fits_.size());
            parallel_for(fits.size(), [&](std::size_t head) {
                if (is_full(static_cast<std::uint32_t>(head) / shape_.n_kv_heads)) fits[head] = make(head);
            });
            analysis.add_variant(name, std::move(fits), int8);
        };
        const std::uint32_t dim = c_.index_dim, wide = std::min(2 * dim, c_.head_dim);
        all("calibrated", false, [&](std::size_t h) { return fits_[h]; });
        all("calibrated, int8 keys", true, [&](std::size_t h) { return fits_[h]; });
        all("calibrated", false, [&](std::size_t h) { return fit_index(index_moments(h), wide); });
        all("RoPE pairs", false, [&](std::size_t h) {
            const auto from = c_.index_pairs.begin() + static_cast<std::ptrdiff_t>(h * dim);
            return pair_fit({from, from + dim}, c_.head_dim);
        });
    }

    void analyse(TextAnalysis& analysis) {
        clock_.enter("attention");
        for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
            if (options_.on_progress) options_.on_progress("attention", layer, shape_.n_layers);
            if (is_full(layer)) analysis.add_layer(layer, session_.cached_keys(layer), fits_, c_);
        }
        clock_.enter("similarity");
        analysis.finish(c_, kAnchors, report_);
    }

    void mark_roles() {
        const std::vector<float> levels = head_levels(c_, shape_);
        if (options_.full_share >= 0) {
            mark_full_heads(c_, shape_, levels, level_of_share(shape_, levels, options_.full_share));
        } else {
            mark_full_heads(c_, shape_, levels, 1);
        }
    }

    void check_and_widen_roles() {
        if (options_.quick) return;
        clock_.enter("safety check");
        const std::vector<float> levels = head_levels(c_, shape_);
        const std::uint32_t period = std::min(kPeriod, session_.n_ctx() / 2 - 32);
        for (std::uint32_t widened = 0;; ++widened) {
            const RepeatCheck check = check_roles(session_, input_.pool, std::make_shared<Calibration>(c_), period,
                                                  [&](std::uint64_t done, std::uint64_t total) {
                                                      if (options_.on_progress) options_.on_progress("safety check", done, total);
                                                  });
            report_.dense_repeat = check.dense;
            report_.roles_repeat = check.roles;
            report_.n_widened = widened;
            report_.roles_safe = check.roles <= kSafe * check.dense;
            if (report_.roles_safe || options_.full_share >= 0 || widened == kMostWidenings || c_.full_share >= 1) return;
            mark_full_heads(c_, shape_, levels, 1 + kWidening * static_cast<float>(widened + 1));
        }
    }

    // What presets are set to, measured by the exact audit at the end of the text that judged the index and is still cached.
    void tune_presets() {
        const std::vector<TokenId> text = session_.tokens();
        if (options_.quick || text.size() < kLeastSettingText) return;
        const auto n = static_cast<std::uint32_t>(text.size()) - kSettingSteps;
        if (session_.truncate(n) < n) return;
        clock_.enter("settings");
        c_.settings = find_settings(session_, tuned_presets(), std::make_shared<Calibration>(c_), std::span(text).subspan(n), kTargetMass,
                                    [&](std::uint64_t done, std::uint64_t total) {
                                        if (options_.on_progress) options_.on_progress("settings", done, total);
                                    });
        session_.use_sparse({});
    }

    // What `auto` uses: the index, and roles only where they have stood the test.
    void recommend() {
        c_.preset = !options_.quick && report_.roles_safe ? "rtpurbo" : "hisa";
        c_.mass = 0.9f;
    }

    Session& session_;
    const ModelShape& shape_;
    const CalibrationInput& input_;
    const CalibrateOptions& options_;
    CalibrationReport& report_;
    PhaseClock clock_;
    Calibration c_;
    std::vector<RopeSpace> ropes_;
    std::vector<Moments> text_moments_, random_moments_;  ///< [n_layers, n_kv_heads]
    std::vector<IndexFit> fits_;
};

}  // namespace

std::uint32_t least_calibration_tokens(std::uint32_t n_ctx) { return std::min(512u, n_ctx / 2); }

std::uint32_t most_calibration_tokens(std::uint32_t n_ctx) { return std::min(kTextTokens, n_ctx) + std::min(kHeldOutTokens, n_ctx); }

Calibration calibrate(Session& session, const CalibrationInput& input, const CalibrateOptions& options, CalibrationReport& report) {
    const auto begin = std::chrono::steady_clock::now();
    const ModelShape& shape = session.shape();
    const std::uint32_t dim = options.index_dim;
    if (dim != 0 && (dim % 8 != 0 || dim > 64 || dim > shape.head_dim))
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("an index_dim of {} is no multiple of 8 up to {}", dim, std::min(shape.head_dim, 64u)));
    if (session.n_ctx() < 128)
        throw Error(ErrorCode::kInvalidArgument, fmt::format("a context of {} tokens is too short to calibrate", session.n_ctx()));
    const std::uint32_t least = least_calibration_tokens(session.n_ctx());
    if (input.text.size() < least)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("the text has {} tokens: calibration needs {} or more, better 6000", input.text.size(), least));
    if (std::none_of(shape.layers.begin(), shape.layers.end(), [](const LayerShape& l) { return l.window == 0; }))
        throw Error(ErrorCode::kInvalidArgument, "every layer of this model has a window of its own: there is nothing to calibrate");
    Calibration calibration = Calibrator(session, input, options, report).run();
    check_calibration(calibration, shape);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return calibration;
}

}  // namespace winnow
