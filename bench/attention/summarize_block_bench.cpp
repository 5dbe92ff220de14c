// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/summarize_block.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_summarize_block() {
    register_at_depths("summarize_block", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
        const KvCache cache = filled_cache(s, n);
        SummarizeBlock::Config c;
        c.n_kv_heads = s.n_kv_heads;
        c.head_dim = s.head_dim;
        c.summary_unit = 16;
        const SummarizeBlock stage(b.device(), c);
        const std::uint32_t supers = (n + 1023) / 1024;
        const std::uint64_t rows = s.n_kv_heads * (cache.layout().layer_blocks(0) / s.n_kv_heads * 4ull + supers);
        const vk::Buffer low = b.buffer(rows * s.head_dim * 2), high = b.buffer(rows * s.head_dim * 2);
        const vk::Buffer sum = b.buffer(rows * s.head_dim * 4), none = b.buffer(16);
        b.run(state, SummarizeBlock::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r, {cache.tables(), cache.keys(0), low, high, sum, none, none, none},
                         {n, 0, 0, cache.layout().table_stride(), 0, cache.layout().layer_blocks(0) * 4, supers});
        });
    });
}

}  // namespace winnow::bench
