// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_attend.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/check_choice.h"
#include "bench/support/registry.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/attention/summarize_block.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"
#include "tests/reference/dequantize.h"
#include "tests/reference/indexer_score.h"
#include "tests/reference/select_attend.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kSinks = 4, kWindow = 64;

std::uint32_t word(float x) { return std::bit_cast<std::uint32_t>(x); }

// Boxes of each layer's units, as prefill leaves them, for the stage to score; none otherwise.
struct Boxes {
    Boxes(const AttentionSetup& on, const AttentionCase& at, std::uint32_t unit, bool wanted) {
        Bench& b = Bench::get();
        arrivals = b.zeros(at.shape.n_kv_heads * 4);
        if (!wanted) return;
        SummarizeBlock::Config c;
        c.n_kv_heads = at.shape.n_kv_heads;
        c.head_dim = at.shape.head_dim;
        c.kv_type = at.kv_type;
        c.summary_unit = unit;
        const SummarizeBlock summarize(b.device(), c);
        const std::uint32_t units = on.cache.layout().layer_blocks(0) * (64 / unit),
                            supers = (at.n_tokens + 1023) / 1024;
        const std::uint64_t values = std::uint64_t{units + supers * at.shape.n_kv_heads} * at.shape.head_dim;
        const vk::Buffer sum = b.buffer(values * 4), none = b.zeros(16);
        for (std::uint32_t i = 0; i < on.cache.n_layers(); ++i) {
            low.push_back(b.buffer(values * 2));
            high.push_back(b.buffer(values * 2));
            vk::run_once(b.device(), [&](vk::Recorder& r) {
                summarize.record(r,
                                 {on.tables(), on.keys(i), low.back(), high.back(), sum, none, none, none, none, none},
                                 {at.n_tokens, 0, on.table_offset(i), on.table_stride(), 0, units, supers, 0});
            });
        }
    }
    vk::BufferRange of(const std::vector<vk::Buffer>& all, std::uint32_t i) const {
        return all.empty() ? arrivals : all[i % all.size()];
    }
    std::vector<vk::Buffer> low, high;
    vk::Buffer arrivals;
};

// Index keys of each layer, and tokens that a level above let through, for the stage to score; none otherwise.
struct Keys {
    static constexpr std::uint32_t kDim = 32, kMostListed = 4608;  // as hisa's codes keep them

    Keys(const AttentionSetup& on, const AttentionCase& at, bool wanted) {
        if (!wanted) return;
        Bench& b = Bench::get();
        const std::uint32_t n_kv_heads = at.shape.n_kv_heads, end = (at.n_tokens - kWindow) / 64 * 64 - 64;
        const std::uint32_t n = std::min(kMostListed, end / 2);
        std::minstd_rand random(2);
        const auto noise = [&](std::size_t size, float most) {
            std::vector<float> values(size);
            for (float& x : values) x = most * (2 * (static_cast<float>(random()) / 2147483647.0f) - 1);
            return values;
        };
        map_values = noise(std::size_t{n_kv_heads} * 2 * kDim * at.shape.head_dim, 0.2f);
        maps = f32_buffer(map_values);
        // As the cache has it: of a few different blocks of 64 rows, each physical one is one.
        constexpr std::size_t kWords = 64 * kDim / 2;
        std::vector<std::uint32_t> drawn, words(std::size_t{on.cache.layout().layer_blocks(0)} * kWords);
        for (std::uint32_t h = 0; h < n_kv_heads; ++h) {
            const reference::HeadView head = on.cache.head(h);
            for (std::size_t i = 0; i < head.blocks.size(); ++i) {
                while (drawn.size() < (head.blocks[i] + 1) * kWords)
                    drawn.push_back(random() & 0xbbffbbffu);  // below 2
                std::copy_n(drawn.begin() + head.blocks[i] * kWords, kWords,
                            words.begin() + (on.cache.layout().head(0, h).first_block + i) * kWords);
            }
        }
        for (std::uint32_t i = 0; i < on.cache.n_layers(); ++i) planes.push_back(b.words(words));
        for (const std::uint32_t pair : drawn)
            for (const std::uint32_t half : {pair & 0xffff, pair >> 16})
                key_values.push_back(static_cast<float>(reference::half_to_double(static_cast<std::uint16_t>(half))));
        for (std::uint32_t t = 0; t < n; ++t)
            listed.push_back(static_cast<std::uint32_t>(kSinks + std::uint64_t{t} * (end - kSinks) / n));
        std::vector<std::uint32_t> all_listed;
        for (std::uint32_t h = 0; h < n_kv_heads; ++h)
            all_listed.insert(all_listed.end(), listed.begin(), listed.end());
        lists = b.words(all_listed);
        dropped = f32_buffer(std::vector<float>(at.shape.n_heads, -1e30f));
    }
    vk::BufferRange or_else(const vk::Buffer& own, const vk::Buffer& other) const { return own ? own : other; }
    std::vector<std::uint32_t> listed;
    std::vector<float> map_values, key_values;
    std::vector<vk::Buffer> planes;
    vk::Buffer maps, lists, dropped;
};

reference::SelectView view_of(const reference::CacheView& cache, std::span<const float> query, std::uint32_t n_tokens) {
    reference::SelectView view;
    view.cache = cache;
    view.query = query;
    view.position = n_tokens - 1;
    view.sinks = kSinks;
    view.window = kWindow;
    return view;
}

// Scores that the reference gives the boxes of a kv head, or the keys that are listed, as rows one after the other.
ScoredRows reference_rows(const AttentionSetup& on, const Keys& keys, const SelectLevel& level, std::uint32_t kv_head,
                          std::uint32_t n_tokens, std::vector<float>& scores, std::uint32_t stride) {
    const bool by_keys = !keys.listed.empty();
    ScoredRows rows{{}, stride, {}, {}, level.unit, kSinks, n_tokens - kWindow};
    if (by_keys) {
        rows.sinks = 0;
        rows.middle_end = static_cast<std::uint32_t>(keys.listed.size());
    }
    const reference::HeadView head = on.cache.head(kv_head);
    scores.assign(std::size_t{on.n_group()} * stride, 0);
    for (std::uint32_t g = 0; g < on.n_group(); ++g) {
        reference::SelectView view =
            view_of(on.cache.view({&head, 1}), on.query_of(kv_head * on.n_group() + g), n_tokens);
        const std::size_t map = std::size_t{Keys::kDim} * on.cache.head_dim();
        if (by_keys) {
            view.index_dim = Keys::kDim;
            view.maps = std::span<const float>(keys.map_values).subspan(2 * kv_head * map, 2 * map);
            view.index_keys = keys.key_values;
        }
        const reference::Level scored =
            reference::indexer_score(view, level, 0, by_keys ? &keys.listed : nullptr, 1, {});
        for (std::size_t i = 0; i < scored.rows.size(); ++i)
            scores[g * stride + i] = static_cast<float>(scored.rows[i].log_weight[0] + scored.lse[0]);
        rows.lse.push_back(scored.lse[0]);
        rows.sure.push_back(0);  // a budget of tokens does not ask for it
    }
    rows.scores = scores;
    return rows;
}

enum class Scored { kBefore, kBoxes, kKeys };

// Even noise for scores of blocks, or boxes of random keys or index keys that the stage scores itself, and a budget of
// 5 % of the tokens; of index keys of 8 in 9 of them, at most.
void run(benchmark::State& state, const AttentionCase& at, std::uint32_t unit, Scored scored) {
    Bench& b = Bench::get();
    const Shape& s = at.shape;
    const bool boxes = scored == Scored::kBoxes, keys = scored == Scored::kKeys;
    const std::uint32_t n = at.n_tokens;
    auto c = stage_config<SelectAttend>(s);
    c.kv_type = at.kv_type;
    c.level = {.scorer = Scorer::kBox, .unit = unit, .rule = BudgetRule::kTopK};
    c.most_rows = n / unit + 1;
    c.score_stride = IndexerScore::score_stride(c.most_rows);
    c.n_score_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    const AttentionSetup on(at);
    const Keys filtered(on, at, keys);
    const auto n_listed = static_cast<std::uint32_t>(filtered.listed.size());
    const std::uint32_t budget = keys ? std::min(n / 20, n_listed * 8 / 9) : n / 20;
    if (keys) {
        c.level.scorer = Scorer::kLowdim;
        c.parent_unit = 1;
        c.most_rows = n_listed + 2;
        c.score_stride = IndexerScore::score_stride(c.most_rows);
        c.index_dim = Keys::kDim;
    }
    c.n_splits = on.n_splits;
    if (boxes || keys) {
        c.scores_rows = true;
        if (!b.device().is_cpu()) {  // as in a session
            c.n_splits = (on.n_splits + 1) / 2;
            c.n_splits = SelectAttend::scoring_splits(c, most_waiting(b.device(), s.n_kv_heads));
            if (c.n_splits == 0)
                return state.SkipWithError("skipped: too many rows for workgroups that do not wait for each other");
        }
    }
    const std::unique_ptr<SelectAttend> stage = SelectAttend::make(b.device(), c);
    if (!stage) return state.SkipWithError("skipped: too many rows for this stage, or too little shared memory");
    const std::uint32_t group = on.n_group();
    std::minstd_rand random(1);
    std::vector<float> scores(std::size_t{s.n_heads} * c.score_stride);
    for (float& x : scores) x = 6 * (static_cast<float>(random()) / 2147483647.0f - 0.5f);
    // (m, d) of each range, alike.
    const float most = 3, sum = static_cast<float>(n) / static_cast<float>(c.n_score_splits);
    std::vector<std::uint32_t> ranges, policy_words;
    const std::uint32_t n_states = std::max(c.n_score_splits + 1, 2 * c.n_splits);  // of shares two each
    for (std::uint32_t i = 0; i < s.n_kv_heads * n_states * group; ++i)
        ranges.insert(ranges.end(), {word(most), word(sum)});
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h)
        policy_words.insert(policy_words.end(), {word(1), 0, budget, 0, 0});
    std::vector<std::uint32_t> control_words(s.n_kv_heads * 4);
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h)  // of the list above
        control_words.insert(control_words.end(), {n_listed, n_listed, 0, n});
    const vk::Buffer score_rows = f32_buffer(scores), range_rows = b.words(ranges), policies = b.words(policy_words);
    const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * c.most_rows * 4), controls = b.words(control_words);
    const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
    const Boxes planes(on, at, unit, boxes);
    SelectAttendPush push{};
    push.table_stride = on.table_stride();
    push.list_stride = c.most_rows;
    push.parent_stride = n_listed;
    push.parent_control = s.n_kv_heads;
    push.sink_tokens = kSinks;
    push.window = kWindow;
    push.evicted = WINNOW_NO_SUMS;
    b.run(
        state, SelectAttend::bytes_moved(c, keys ? n_listed : n / unit, budget + kWindow),
        [&](vk::Recorder& r, std::uint32_t i) {
            push.table_offset = on.table_offset(i);
            stage->record(r,
                          {on.state,
                           on.tables(),
                           on.keys(i),
                           on.values(i),
                           on.query,
                           on.partials,
                           on.counters,
                           on.attended,
                           on.act_out,
                           lists,
                           controls,
                           filtered.or_else(filtered.lists, lists),
                           lse,
                           counts,
                           score_rows,
                           range_rows,
                           policies,
                           on.state,
                           planes.of(planes.low, i),
                           planes.of(planes.high, i),
                           keys ? filtered.planes[i % filtered.planes.size()] : on.state,
                           filtered.or_else(filtered.maps, on.state),
                           filtered.or_else(filtered.dropped, on.state),
                           planes.arrivals},
                          push);
        },
        [&] {
            const auto all = vk::read_back_as<std::uint32_t>(b.device(), lists);
            const auto control = vk::read_back_as<SelectControl>(b.device(), controls);
            std::string wrong;
            const auto units = [&](std::uint32_t h) {
                const auto list = std::span<const std::uint32_t>(all).subspan(std::size_t{h} * c.most_rows,
                                                                              std::min(control[h].n_list, c.most_rows));
                return std::vector<std::uint32_t>(list.begin(), list.end());
            };
            for (const std::uint32_t h : first_and_last(s.n_kv_heads)) {
                std::vector<std::uint32_t> kept = units(h);
                for (std::uint32_t& token : kept) {  // its place among the listed
                    if (!keys) break;
                    const auto at_list = std::lower_bound(filtered.listed.begin(), filtered.listed.end(), token);
                    if (at_list == filtered.listed.end() || *at_list != token)
                        return fmt::format("wrong choice: token {} is not listed", token);
                    token = static_cast<std::uint32_t>(at_list - filtered.listed.begin());
                }
                const double denominator = most + std::log(sum * static_cast<float>(c.n_score_splits + 1));
                std::vector<float> own;
                const ScoredRows rows =
                    boxes || keys
                        ? reference_rows(on, filtered, c.level, h, n, own, c.score_stride)
                        : ScoredRows{std::span<const float>(scores).subspan(std::size_t{h} * group * c.score_stride),
                                     c.score_stride,
                                     std::vector<double>(group, denominator),
                                     std::vector<double>(group),
                                     unit,
                                     kSinks,
                                     n - kWindow};
                wrong = check_choice(rows, c.level, budget, kept, SelectAttend::bin_width(c.level.rule, group));
                if (!wrong.empty()) return wrong;
            }
            return on.check_attended(
                [&](std::span<const float> query, const reference::CacheView& cache, std::uint32_t h) {
                    return reference::select_attend(view_of(cache, query, n), {units(h)}, unit).output;
                });
        });
}

}  // namespace

void register_select_attend() {
    for (const std::uint32_t unit : {16u, 64u}) {
        register_attention(
            "select_attend_" + std::to_string(unit), {kKvTypes, true},
            [unit](benchmark::State& state, const AttentionCase& at) { run(state, at, unit, Scored::kBefore); });
        register_attention(
            "select_attend_boxes_" + std::to_string(unit), {{KvType::kF16}, true},
            [unit](benchmark::State& state, const AttentionCase& at) { run(state, at, unit, Scored::kBoxes); });
    }
    register_attention("select_attend_keys", {{KvType::kF16}, true},
                       [](benchmark::State& state, const AttentionCase& at) { run(state, at, 1, Scored::kKeys); });
}

}  // namespace winnow::bench
