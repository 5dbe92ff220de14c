// SPDX-License-Identifier: Apache-2.0
#include "models/calibration/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "models/calibration/code_fit.h"
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
constexpr std::uint32_t kCopies =
    2;  // RazorAttention has four: each row then looks for its token in up to three places, at twice the cost
constexpr std::uint32_t kRepeatRows = 96;
constexpr std::uint32_t kRepeatSeed = 20261123;
constexpr double kRandomShare = 0.25;                        // of random tokens in the moments: text alone copies worse
constexpr std::uint32_t kTextPlaces = 3, kRandomPlaces = 1;  // of a key in the contexts that codes are fitted to
constexpr std::uint32_t kSinks = 4;  // always attended, and unlike other keys: no part of the moments
constexpr std::uint32_t kAnchors = 5;
constexpr float kTargetMass = 0.9f;                                   // of the settings of presets
constexpr std::uint32_t kSettingSteps = 4, kLeastSettingText = 1024;  // in less, sinks and window are most of it
constexpr std::size_t kChecked = 2;  // presets that are measured on repeats: the cheapest
constexpr double kCopying = 0.5;     // of the perplexity of chance: a model above it copies nothing

IndexMoments seen_moments(const Moments& m) {
    const Eigen::VectorXd mean = m.key_mean / m.n_keys;
    return {m.query / m.n_queries, m.key / m.n_keys - mean * mean.transpose()};
}

class Calibrator {
public:
    Calibrator(Session& session, const CalibrationInput& input, const CalibrateOptions& options,
               CalibrationReport& report)
        : session_(session),
          shape_(session.shape()),
          input_(input),
          options_(options),
          report_(report),
          clock_(report.phases) {
        for (const LayerShape& layer : shape_.layers) ropes_.emplace_back(shape_, layer);
        c_ = assume_calibration(shape_);
        if (options.index_dim != 0) c_.index_dim = options.index_dim;
        c_.target_ctx = options.target_ctx != 0 ? options.target_ctx : std::min(shape_.n_ctx_train, 32768u);
        const std::size_t n_kv = c_.temperatures.size();
        c_.index_maps.assign(n_kv * 2 * c_.index_dim * c_.head_dim, 0);
        c_.index_pairs.assign(n_kv * c_.index_dim, 0);
        c_.codes.bits.assign(n_kv * c_.index_dim, 0);
        c_.codes.curves.assign(n_kv * c_.index_dim * kCodeTerms, 0);
        c_.mass = 0;
        c_.quick = options.quick;
    }

    Calibration run() {
        session_.use_sparse({});
        random_pass();
        const std::uint32_t n_text =
            std::min<std::uint32_t>(options_.quick ? kQuickTextTokens : kTextTokens, session_.n_ctx());
        const std::vector<TokenId>& text = input_.text;
        std::vector<TokenId> tokens(text.begin(), text.begin() + std::min<std::ptrdiff_t>(n_text, std::ssize(text)));
        std::vector<TokenId> held = input_.later_text(tokens.size(), std::min(kHeldOutTokens, session_.n_ctx()));
        if (options_.quick || held.size() < std::min(kLeastHeldOut, session_.n_ctx())) held.clear();
        report_.n_text = static_cast<std::uint32_t>(tokens.size());
        report_.n_held_out = static_cast<std::uint32_t>(held.size());

        // The text that is judged carries a needle at both ends; without a held-out text it is the one that gives the
        // moments.
        TextAnalysis analysis(shape_, held.empty() ? tokens : held, input_.needle,
                              held.empty() ? options_.quick : false);
        if (held.empty()) {
            text_moments_ = moments_of(analysis.tokens(), "text", &analysis.sample());
            fit();
        } else {
            text_moments_ = moments_of(tokens, "text", nullptr);
            fit();
            const std::vector<Moments> seen = moments_of(analysis.tokens(), "held-out text", &analysis.sample(), true);
            add_variants(analysis, seen);
        }
        analyse(analysis);
        mark_roles();
        tune_presets(tuned_presets(), analysis.tokens());
        if (check_and_widen_roles() && !c_.settings.empty())
            tune_presets({"rtpurbo"}, analysis.tokens());  // it has other heads now
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

    // Prefills the tokens; moments of every full layer, before RoPE or as they are: then of the keys and the queries of
    // the second half.
    std::vector<Moments> moments_of(const std::vector<TokenId>& tokens, const std::string& step, QuerySample* sample,
                                    bool as_they_are = false) {
        std::vector<Moments> sums(std::size_t{shape_.n_layers} * shape_.n_kv_heads);
        const std::uint32_t n_group = shape_.n_group(), dim = shape_.head_dim;
        const std::uint32_t first_query = as_they_are ? static_cast<std::uint32_t>(tokens.size()) / 2 : kSinks;
        const auto add = [&](std::uint32_t layer, std::uint32_t first, std::uint32_t begin, const Rows& rows,
                             auto&& sum) {
            const Eigen::Index skip = std::min<Eigen::Index>(first < begin ? begin - first : 0, rows.rows());
            if (skip == rows.rows()) return;
            Eigen::MatrixXf x = rows;
            if (!as_they_are) ropes_[layer].rotate(x, first, -1);
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
                        add(layer, first, first_query,
                            head_rows(queries, shape_.n_heads, static_cast<std::uint32_t>(h) * n_group + g, dim),
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
                add(layer, 0, kSinks, head_rows(keys, shape_.n_kv_heads, static_cast<std::uint32_t>(h), dim),
                    [&](const auto& x) {
                        m.add_keys(x);
                        if (as_they_are) return;
                        m.some_keys.resize((x.rows() + 1) / 2, x.cols());
                        for (Eigen::Index i = 0; i < m.some_keys.rows(); ++i) m.some_keys.row(i) = x.row(2 * i);
                    });
            });
        }
        return sums;
    }

    // Repeated random tokens: moments, and which heads find the earlier copy.
    void random_pass() {
        const std::uint32_t n_before = input_.pool.bos >= 0 ? 1 : 0;
        const std::uint32_t period =
            std::min(options_.quick ? kQuickPeriod : kPeriod, (session_.n_ctx() - n_before) / 2 - 1);
        const std::uint32_t n = n_before + period * kCopies;
        const RepeatedText repeated = repeated_text(input_.pool, period, n, kRepeatSeed);
        const std::uint32_t second = repeated.first + period;
        std::vector<std::uint32_t> rows;
        for (std::uint32_t i = 0; i < kRepeatRows; ++i) rows.push_back(second + i * (n - second) / kRepeatRows);
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
        QuerySample sample(shape_, rows);
        random_moments_ = moments_of(repeated.tokens, "random tokens", &sample);
        report_.n_random = n;
        clock_.enter("scores of heads");
        for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
            if (!is_full(layer)) continue;
            const std::vector<std::uint16_t> keys = session_.cached_keys(layer);
            parallel_for(shape_.n_heads, [&](std::size_t h) {
                const auto head = static_cast<std::uint32_t>(h);
                const Rows k = head_rows(keys, shape_.n_kv_heads, head / shape_.n_group(), shape_.head_dim);
                const RepeatScores scores =
                    score_repeats(attention(sample.queries(layer, head), k, rows), rows, period, repeated.first);
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
        if (options_.on_progress) options_.on_progress("fit of the index", 0, text_moments_.size());
        fits_.resize(text_moments_.size());
        const std::size_t size = std::size_t{c_.index_dim} * c_.head_dim;
        parallel_for(fits_.size(), [&](std::size_t head) {
            const auto layer = static_cast<std::uint32_t>(head) / shape_.n_kv_heads;
            if (!is_full(layer)) return;
            const IndexMoments moments = index_moments(head);
            fits_[head] = fit_index(moments, c_.index_dim);
            Eigen::Map<Rows>(c_.index_maps.data() + head * 2 * size, c_.index_dim, c_.head_dim) = fits_[head].a;
            Eigen::Map<Rows>(c_.index_maps.data() + (head * 2 + 1) * size, c_.index_dim, c_.head_dim) = fits_[head].b;
            fit_head_codes(head, moments);
            const auto dims = best_pair_dims(moments, ropes_[layer], c_.index_dim);
            std::copy(dims.begin(), dims.end(),
                      c_.index_pairs.begin() + static_cast<std::ptrdiff_t>(head * c_.index_dim));
        });
    }

    void fit_head_codes(std::size_t head, const IndexMoments& moments) {
        const RopeSpace& rope = ropes_[head / shape_.n_kv_heads];
        const Eigen::MatrixXf text = spread_keys_up_to(text_moments_[head], rope, c_.target_ctx, kTextPlaces),
                              random = spread_keys_up_to(random_moments_[head], rope, c_.target_ctx, kRandomPlaces);
        const IndexFit& f = fits_[head];
        Rows samples(text.rows() + random.rows(), f.b.rows());
        samples << text * f.b.transpose(), random * f.b.transpose();
        const Eigen::MatrixXd a = f.a.cast<double>();
        const CodeFit codes = fit_codes(samples, (a * moments.query * a.transpose()).diagonal());
        std::copy(codes.bits.begin(), codes.bits.end(),
                  c_.codes.bits.begin() + static_cast<std::ptrdiff_t>(head * c_.index_dim));
        std::copy(codes.curves.begin(), codes.curves.end(),
                  c_.codes.curves.begin() + static_cast<std::ptrdiff_t>(head * c_.index_dim * kCodeTerms));
    }

    // Indexes that the report compares on the held-out text.
    void add_variants(TextAnalysis& analysis, const std::vector<Moments>& seen) {
        clock_.enter("fit");
        const auto all = [&](const std::string& name, bool int8, auto&& make, KeptQuality kept = {}) {
            std::vector<IndexFit> fits(fits_.size());
            parallel_for(fits.size(), [&](std::size_t head) {
                if (is_full(static_cast<std::uint32_t>(head) / shape_.n_kv_heads)) fits[head] = make(head);
            });
            analysis.add_variant(name, std::move(fits), int8, kept);
        };
        const std::uint32_t dim = c_.index_dim, wide = std::min(2 * dim, c_.head_dim);
        all("calibrated", false, [&](std::size_t h) { return fits_[h]; },
            {&Calibration::index_mass, &Calibration::index_recall});
        all("calibrated, int8 keys", true, [&](std::size_t h) { return fits_[h]; });
        all("calibrated", false, [&](std::size_t h) { return fit_index(index_moments(h), wide); });
        all("RoPE pairs", false,
            [&](std::size_t h) {
                const auto from = c_.index_pairs.begin() + static_cast<std::ptrdiff_t>(h * dim);
                return pair_fit({from, from + dim}, c_.head_dim);
            },
            {&Calibration::pair_mass, &Calibration::pair_recall});
        // What the rotation loses: moments of a short text, rotated, against those that the judged text itself shows.
        const auto n_seen = static_cast<std::uint32_t>(analysis.tokens().size());
        if (n_seen < 2 * report_.n_text) return;
        all(fmt::format("text of {}, rotated to {}", report_.n_text, n_seen), false, [&](std::size_t h) {
            return fit_index(spread_moments(text_moments_[h], ropes_[h / shape_.n_kv_heads], n_seen), dim);
        });
        all(fmt::format("this text, as its {} show it", n_seen), false,
            [&](std::size_t h) { return fit_index(seen_moments(seen[h]), dim); });
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

    // @returns whether the roles changed.
    bool check_and_widen_roles() {
        report_.has_structure = has_retrieval_heads(c_);
        if (options_.quick) return false;
        clock_.enter("safety check");
        const std::uint32_t period = std::min(kPeriod, session_.n_ctx() / 2 - 32);
        std::vector<std::string> presets;
        for (const PresetSetting& s : cheapest_settings(c_.settings, kTargetMass))
            if (presets.size() < kChecked) presets.push_back(s.preset);
        const auto progress = [&](std::uint64_t done, std::uint64_t total) {
            const std::uint64_t third = std::min<std::uint64_t>(3 * done / std::max<std::uint64_t>(total, 1), 2);
            if (options_.on_progress) options_.on_progress(fmt::format("safety check {}/3", third + 1), done, total);
        };
        const RolesVerdict verdict =
            widen_until_safe(c_, shape_, report_.has_structure && options_.full_share < 0, [&](const Calibration& c) {
                return check_roles(session_, input_.pool, std::make_shared<Calibration>(c), presets, period, progress);
            });
        report_.dense_repeat = verdict.check.dense;
        report_.roles_repeat = verdict.check.roles;
        report_.n_widened = verdict.n_widened;
        // A model that does not copy itself would find any roles good.
        const auto n_plain = std::count(input_.pool.plain.begin(), input_.pool.plain.end(), true);
        if (verdict.check.dense > kCopying * static_cast<double>(n_plain)) report_.has_structure = false;
        c_.checked = report_.roles_safe = report_.has_structure && verdict.safe;
        for (std::size_t i = 0; i < presets.size(); ++i)
            for (PresetSetting& s : c_.settings)
                if (s.preset == presets[i])
                    s.repeat_ratio = static_cast<float>(
                        std::min(verdict.check.presets[i] / std::max(verdict.check.dense, 1.0), 1e6));
        return verdict.n_widened > 0;
    }

    // What presets are set to, measured by the exact audit at the end of the text that judged the index.
    void tune_presets(const std::vector<std::string>& presets, const std::vector<TokenId>& text) {
        if (options_.quick || text.size() < kLeastSettingText) return;
        const auto n = static_cast<std::uint32_t>(text.size()) - kSettingSteps;
        if (session_.n_cached() == 0) {
            clock_.enter("prefill");
            session_.prefill(std::span(text).first(n), progress("held-out text"));
        } else if (session_.truncate(n) < n) {
            return;
        }
        clock_.enter("settings");
        std::vector<PresetSetting> found;
        for (const std::string& preset : presets) {
            if (session_.n_cached() != n)
                break;  // a windowed layer could not go back: what follows would measure another text
            const auto one =
                find_settings(session_, {preset}, std::make_shared<Calibration>(c_), std::span(text).subspan(n),
                              kTargetMass, [&](std::uint64_t done, std::uint64_t total) {
                                  if (options_.on_progress) options_.on_progress("settings of " + preset, done, total);
                              });
            found.insert(found.end(), one.begin(), one.end());
        }
        for (const PresetSetting& s : found) {
            const auto old = std::find_if(c_.settings.begin(), c_.settings.end(),
                                          [&](const PresetSetting& o) { return o.preset == s.preset; });
            if (old == c_.settings.end()) {
                c_.settings.push_back(s);
            } else {
                const float ratio = old->repeat_ratio;
                *old = s;
                old->repeat_ratio = ratio;
            }
        }
        session_.use_sparse({});
    }

    // What `auto` is: the best measured preset, without measurements the index, and roles only where they have stood
    // the test.
    void recommend() {
        if (!report_.has_structure) c_.preset = "exact";
        else if (!c_.settings.empty()) c_.preset = best_preset(c_.settings, kTargetMass, report_.roles_safe);
        else c_.preset = report_.roles_safe ? "rtpurbo" : "hisa";
        c_.mass = c_.preset == "exact" ? 0 : 0.9f;
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

std::uint32_t most_calibration_tokens(std::uint32_t n_ctx) {
    return std::min(kTextTokens, n_ctx) + std::min(kHeldOutTokens, n_ctx);
}

Calibration calibrate(Session& session, const CalibrationInput& input, const CalibrateOptions& options,
                      CalibrationReport& report) {
    const auto begin = std::chrono::steady_clock::now();
    const ModelShape& shape = session.shape();
    const std::uint32_t dim = options.index_dim;
    if (dim != 0 && (dim % 8 != 0 || dim > 64 || dim > shape.head_dim))
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("an index_dim of {} is no multiple of 8 up to {}", dim, std::min(shape.head_dim, 64u)));
    if (session.n_ctx() < 128)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("a context of {} tokens is too short to calibrate", session.n_ctx()));
    const std::uint32_t least = least_calibration_tokens(session.n_ctx());
    if (input.text.size() < least)
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("the text has {} tokens: calibration needs {} or more, better 6000", input.text.size(), least));
    if (std::none_of(shape.layers.begin(), shape.layers.end(), [](const LayerShape& l) { return l.window == 0; }))
        throw Error(ErrorCode::kInvalidArgument,
                    "every layer of this model has a window of its own: there is nothing to calibrate");
    Calibration calibration = Calibrator(session, input, options, report).run();
    check_calibration(calibration, shape);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return calibration;
}

}  // namespace winnow
