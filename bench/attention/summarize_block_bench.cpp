// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/summarize_block.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {

void register_summarize_block() {
    for (const Shape& s : shapes()) {
        const std::vector<std::uint32_t> depths = Bench::get().device().is_cpu() ? std::vector<std::uint32_t>{1024, 8192}
                                                                                 : std::vector<std::uint32_t>{1024, 8192, 32768, 131072};
        for (const std::uint32_t n : depths) {
            benchmark::RegisterBenchmark(("summarize_block/" + s.name + "/n_tokens:" + std::to_string(n)).c_str(), [s, n](benchmark::State& state) {
                Bench& b = Bench::get();
                const KvCache cache(b.device(), kv_config(s, n, 1));
                vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(cache.keys(0), 0x20102010); });
                SummarizeBlock::Config c;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = s.head_dim;
                c.summary_unit = 16;
                const SummarizeBlock stage(b.device(), c);
                const std::uint32_t supers = (n + 1023) / 1024;
                const std::uint32_t rows = s.n_kv_heads * (cache.layout().layer_blocks(0) / s.n_kv_heads * 4 + supers);
                const vk::Buffer low = b.buffer(std::uint64_t{rows} * s.head_dim * 2), high = b.buffer(std::uint64_t{rows} * s.head_dim * 2);
                const vk::Buffer sum = b.buffer(std::uint64_t{rows} * s.head_dim * 4), none = b.buffer(16);
                b.run(state, SummarizeBlock::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {cache.tables(), cache.keys(0), low, high, sum, none, none, none},
                                 {n, 0, 0, cache.layout().table_stride(), 0, cache.layout().layer_blocks(0) * 4, supers});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
