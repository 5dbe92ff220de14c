// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_attend.h"

#include <bit>
#include <cmath>
#include <random>

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"
#include "runtime/attention/indexer_score.h"

namespace winnow::bench {
namespace {

std::uint32_t word(float x) { return std::bit_cast<std::uint32_t>(x); }

// Even noise for scores of blocks, and a budget of 5 % of the tokens.
void run(benchmark::State& state, const Shape& s, std::uint32_t n, std::uint32_t unit) {
    Bench& b = Bench::get();
    const AttentionSetup on(s, n);
    auto c = stage_config<SelectAttend>(s);
    c.n_splits = on.n_splits;
    c.level = {.scorer = Scorer::kBox, .unit = unit, .rule = BudgetRule::kTopK};
    c.most_rows = n / unit + 1;
    c.score_stride = IndexerScore::score_stride(c.most_rows);
    c.n_score_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    if (!SelectAttend::takes(b.device(), c)) return state.SkipWithError("too many rows for this stage");
    const SelectAttend stage(b.device(), c);
    const std::uint32_t group = s.n_heads / s.n_kv_heads;
    std::minstd_rand random(1);
    std::vector<std::uint32_t> scores(std::size_t{s.n_heads} * c.score_stride), ranges, policy_words;
    for (std::uint32_t& x : scores) x = word(6 * (static_cast<float>(random()) / 2147483647.0f - 0.5f));
    for (std::uint32_t i = 0; i < s.n_kv_heads * (c.n_score_splits + 1) * group; ++i)
        ranges.insert(ranges.end(), {word(3), word(static_cast<float>(n / c.n_score_splits))});
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) policy_words.insert(policy_words.end(), {word(1), 0, n / 20, 0, 0});
    const vk::Buffer score_rows = b.words(scores), range_rows = b.words(ranges), policies = b.words(policy_words);
    const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * c.most_rows * 4), controls = b.zeros(s.n_kv_heads * 16);
    const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
    SelectAttendPush push{};
    push.table_stride = on.cache.layout().table_stride();
    push.list_stride = c.most_rows;
    push.sink_tokens = 4;
    push.window = 64;
    b.run(state, SelectAttend::bytes_moved(c, n / unit, n / 20 + 64), [&](vk::Recorder& r, std::uint32_t) {
        stage.record(r,
                     {on.state, on.cache.tables(), on.cache.keys(0), on.cache.values(0), on.query, on.partials, on.counters, on.attended,
                      on.act_out, lists, controls, lists, lse, counts, score_rows, range_rows, policies},
                     push);
    });
}

}  // namespace

void register_select_attend() {
    for (const std::uint32_t unit : {16u, 64u})
        register_at_depths("select_attend_" + std::to_string(unit),
                           [unit](benchmark::State& state, const Shape& s, std::uint32_t n) { run(state, s, n, unit); });
}

}  // namespace winnow::bench
