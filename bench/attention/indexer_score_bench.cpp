// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/indexer_score.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {

void register_indexer_score() {
    struct Case {
        const char* name;
        Scorer scorer;
        std::uint32_t unit;
    };
    for (const Case which : {Case{"box16", Scorer::kBox, 16}, Case{"mean64", Scorer::kMean, 64}, Case{"exact", Scorer::kExact, 1},
                             Case{"lowdim16", Scorer::kLowdim, 1}}) {
    for (const Shape& s : shapes()) {
        const std::vector<std::uint32_t> depths = Bench::get().device().is_cpu() ? std::vector<std::uint32_t>{1024, 8192}
                                                                                 : std::vector<std::uint32_t>{1024, 8192, 32768, 131072};
        for (const std::uint32_t n : depths) {
            const std::string name = std::string("indexer_score_") + which.name + "/" + s.name + "/n_tokens:" + std::to_string(n);
            benchmark::RegisterBenchmark(name.c_str(), [s, n, which](benchmark::State& state) {
                Bench& b = Bench::get();
                const KvCache cache(b.device(), kv_config(s, n, 1));
                vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(cache.keys(0), 0x20102010); });
                IndexerScore::Config c;
                c.n_heads = s.n_heads;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = s.head_dim;
                c.level.scorer = which.scorer;
                c.level.unit = which.unit;
                c.level.rule = BudgetRule::kTopK;
                c.max_rows = n / which.unit + 1;
                c.n_splits = IndexerScore::default_splits(b.device(), s.n_kv_heads, n);
                const IndexerScore stage(b.device(), c);
                const std::uint64_t blocks = cache.layout().layer_blocks(0);
                const vk::Buffer rows = b.buffer(blocks * 4 * s.head_dim * 4), high = b.buffer(blocks * 4 * s.head_dim * 4);
                const vk::Buffer st = b.state(n - 1), query = b.buffer(s.q_dim() * 4), maps = b.buffer(s.n_kv_heads * 2ull * 16 * s.head_dim * 4);
                const vk::Buffer index = b.buffer(blocks * 64 * 16 * 2), sums = b.buffer(blocks * 16 * 4);
                const vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * n * 4), scores = b.buffer(std::uint64_t{s.n_heads} * IndexerScore::score_stride(c.max_rows) * 4);
                const vk::Buffer partials = b.buffer((c.n_splits + 1) * s.n_heads * 8ull), counters = b.zeros(256);
                const vk::Buffer controls = b.zeros(s.n_kv_heads * sizeof(SelectControl)), dropped = b.zeros(s.n_heads * 4);
                std::vector<std::uint32_t> policy_words;
                for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) policy_words.insert(policy_words.end(), {0, 0, n / 20, 0, 0});
                const vk::Buffer policies = b.words(policy_words), last = b.buffer(s.q_dim() * 4);
                b.run(state, IndexerScore::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                    SelectPush p{};
                    p.table_stride = cache.layout().table_stride();
                    p.list_stride = n;
                    p.sink_tokens = 4;
                    p.window = 64;
                    p.refresh = 1;
                    p.cosine = 2;
                    stage.record(r,
                                 {st, cache.tables(), rows, high, query, maps, cache.keys(0), index, sums, lists, lists, scores,
                                  partials, counters, controls, policies, last, dropped},
                                 p);
                });
            })->UseManualTime();
        }
    }
    }
}

}  // namespace winnow::bench
