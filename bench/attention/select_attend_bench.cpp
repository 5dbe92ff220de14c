// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_attend.h"

#include <bit>
#include <cmath>
#include <random>

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/check_choice.h"
#include "bench/support/registry.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/vk/upload.h"
#include "tests/reference/select_attend.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kSinks = 4, kWindow = 64;

std::uint32_t word(float x) { return std::bit_cast<std::uint32_t>(x); }

// Even noise for scores of blocks, and a budget of 5 % of the tokens.
void run(benchmark::State& state, const AttentionCase& at, std::uint32_t unit) {
    Bench& b = Bench::get();
    const Shape& s = at.shape;
    const std::uint32_t n = at.n_tokens, budget = n / 20;
    auto c = stage_config<SelectAttend>(s);
    c.kv_type = at.kv_type;
    c.level = {.scorer = Scorer::kBox, .unit = unit, .rule = BudgetRule::kTopK};
    c.most_rows = n / unit + 1;
    c.score_stride = IndexerScore::score_stride(c.most_rows);
    c.n_score_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    const AttentionSetup on(at);
    c.n_splits = on.n_splits;
    const std::unique_ptr<SelectAttend> stage = SelectAttend::make(b.device(), c);
    if (!stage) return state.SkipWithError("skipped: too many rows for this stage, or too little shared memory");
    const std::uint32_t group = on.n_group();
    std::minstd_rand random(1);
    std::vector<float> scores(std::size_t{s.n_heads} * c.score_stride);
    for (float& x : scores) x = 6 * (static_cast<float>(random()) / 2147483647.0f - 0.5f);
    // (m, d) of each range, alike.
    const float most = 3, sum = static_cast<float>(n) / static_cast<float>(c.n_score_splits);
    std::vector<std::uint32_t> ranges, policy_words;
    for (std::uint32_t i = 0; i < s.n_kv_heads * (c.n_score_splits + 1) * group; ++i)
        ranges.insert(ranges.end(), {word(most), word(sum)});
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h)
        policy_words.insert(policy_words.end(), {word(1), 0, budget, 0, 0});
    const vk::Buffer score_rows = f32_buffer(scores), range_rows = b.words(ranges), policies = b.words(policy_words);
    const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * c.most_rows * 4),
                     controls = b.zeros(s.n_kv_heads * sizeof(SelectControl));
    const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
    SelectAttendPush push{};
    push.table_stride = on.table_stride();
    push.list_stride = c.most_rows;
    push.sink_tokens = kSinks;
    push.window = kWindow;
    push.evicted = WINNOW_NO_SUMS;
    b.run(
        state, SelectAttend::bytes_moved(c, n / unit, budget + kWindow),
        [&](vk::Recorder& r, std::uint32_t i) {
            push.table_offset = on.table_offset(i);
            stage->record(
                r,
                {on.state, on.tables(), on.keys(i), on.values(i), on.query, on.partials, on.counters, on.attended,
                 on.act_out, lists, controls, lists, lse, counts, score_rows, range_rows, policies},
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
                const double denominator = most + std::log(sum * static_cast<float>(c.n_score_splits + 1));
                const ScoredRows rows{std::span<const float>(scores).subspan(std::size_t{h} * group * c.score_stride),
                                      c.score_stride,
                                      std::vector<double>(group, denominator),
                                      std::vector<double>(group),
                                      unit,
                                      kSinks,
                                      n - kWindow};
                wrong = check_choice(rows, c.level, budget, units(h), SelectAttend::bin_width(c.level.rule, group));
                if (!wrong.empty()) return wrong;
            }
            return on.check_attended(
                [&](std::span<const float> query, const reference::CacheView& cache, std::uint32_t h) {
                    reference::SelectView view;
                    view.cache = cache;
                    view.query = query;
                    view.position = n - 1;
                    view.sinks = kSinks;
                    view.window = kWindow;
                    return reference::select_attend(view, {units(h)}, unit).output;
                });
        });
}

}  // namespace

void register_select_attend() {
    for (const std::uint32_t unit : {16u, 64u})
        register_attention("select_attend_" + std::to_string(unit), {kKvTypes, true},
                           [unit](benchmark::State& state, const AttentionCase& at) { run(state, at, unit); });
}

}  // namespace winnow::bench
