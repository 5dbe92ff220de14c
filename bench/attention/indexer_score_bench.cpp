// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/indexer_score.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kIndexDim = 16;

void run(benchmark::State& state, const Shape& s, std::uint32_t n, Scorer scorer, std::uint32_t unit,
         ScoreEnding ending) {
    Bench& b = Bench::get();
    const AttentionSetup on(s, n);
    auto c = stage_config<IndexerScore>(s);
    c.level.scorer = scorer;
    c.ending = ending;
    c.level.unit = unit;
    c.level.rule = BudgetRule::kTopK;
    c.max_rows = n / unit + 1;
    c.n_splits = select_splits(b.device().is_cpu(), s.n_kv_heads, n);
    const IndexerScore stage(b.device(), c);
    const std::uint64_t blocks = on.cache.layout().layer_blocks(0);
    const vk::Buffer rows = b.buffer(blocks * 4 * s.head_dim * 4), high = b.buffer(blocks * 4 * s.head_dim * 4);
    const vk::Buffer maps = b.buffer(s.n_kv_heads * 2ull * kIndexDim * s.head_dim * 4);
    const vk::Buffer index = b.buffer(blocks * 64 * kIndexDim * 2), sums = b.buffer(blocks * 16 * 4);
    const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * n * 4);
    const vk::Buffer scores = b.buffer(std::uint64_t{s.n_heads} * IndexerScore::score_stride(c.max_rows) * 4);
    const vk::Buffer partials = b.buffer((c.n_splits + 1) * s.n_heads * 8ull);
    const vk::Buffer controls = b.zeros(s.n_kv_heads * sizeof(SelectControl)), dropped = b.zeros(s.n_heads * 4);
    std::vector<std::uint32_t> policy_words;
    for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) policy_words.insert(policy_words.end(), {0, 0, n / 20, 0, 0});
    const vk::Buffer policies = b.words(policy_words), last = b.buffer(s.q_dim() * 4);
    SelectPush push{};
    push.table_stride = on.cache.layout().table_stride();
    push.list_stride = n;
    push.sink_tokens = 4;
    push.window = 64;
    push.refresh = 1;
    push.cosine = 2;
    b.run(state, IndexerScore::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
        stage.record(r,
                     {on.state, on.cache.tables(), rows, high, on.query, maps, on.cache.keys(0),
                      index, sums, lists, lists, scores, partials, on.counters, controls, policies,
                      last, dropped},
                     push);
    });
}

}  // namespace

void register_indexer_score() {
    struct Case {
        const char* name;
        Scorer scorer;
        std::uint32_t unit;
        ScoreEnding ending = ScoreEnding::kList;
    };
    for (const Case& which : {Case{"box16", Scorer::kBox, 16}, Case{"box16_ranges", Scorer::kBox, 16, ScoreEnding::kRanges},
                              Case{"box64_ranges", Scorer::kBox, 64, ScoreEnding::kRanges}, Case{"mean64", Scorer::kMean, 64},
                              Case{"exact", Scorer::kExact, 1}, Case{"lowdim16", Scorer::kLowdim, 1}})
        register_at_depths(std::string("indexer_score_") + which.name,
                           [which](benchmark::State& state, const Shape& s, std::uint32_t n) {
                               run(state, s, n, which.scorer, which.unit, which.ending);
                           });
}

}  // namespace winnow::bench
