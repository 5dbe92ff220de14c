// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_sparse.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/attention/attend_dense.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {

void register_attend_sparse() {
    for (const Shape& s : shapes()) {
        const std::vector<std::uint32_t> depths = Bench::get().device().is_cpu() ? std::vector<std::uint32_t>{1024, 8192}
                                                                                 : std::vector<std::uint32_t>{1024, 8192, 32768, 131072};
        for (const std::uint32_t n : depths) {
            benchmark::RegisterBenchmark(("attend_sparse/" + s.name + "/n_tokens:" + std::to_string(n)).c_str(), [s, n](benchmark::State& state) {
                Bench& b = Bench::get();
                const KvCache cache(b.device(), kv_config(s, n, 1));
                for (const vk::Buffer* pool : {&cache.keys(0), &cache.values(0)})
                    vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(*pool, 0x20102010); });
                const std::uint32_t splits = AttendDense::default_splits(b.device(), s.n_kv_heads, n, 64);
                const vk::Buffer st = b.state(n - 1), query = b.buffer(s.q_dim() * 4), out = b.buffer(s.q_dim() * 4);
                const vk::Buffer partials = b.buffer(attend_partial_bytes(s.n_heads, s.n_kv_heads, s.head_dim, splits));
                const vk::Buffer counters = b.zeros(256), act = b.buffer(activation_bytes(s.q_dim()));
                AttendSparse::Config c;
                c.n_heads = s.n_heads;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = s.head_dim;
                c.n_splits = splits;
                const AttendSparse stage(b.device(), c);
                // 5 % of the tokens, evenly spread: the hardest case for a gather.
                const std::uint32_t listed = n / 20;
                std::vector<std::uint32_t> lists, controls, maps;
                for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
                    for (std::uint32_t i = 0; i < listed; ++i) lists.push_back(i * 20 + h);
                    controls.insert(controls.end(), {listed, listed, n - 64, n});
                    maps.push_back(h);
                }
                const vk::Buffer list_buffer = b.words(lists), control = b.words(controls), head_maps = b.words(maps);
                const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
                b.run(state, AttendSparse::bytes_moved(c, listed + 64), [&](vk::Recorder& r, std::uint32_t) {
                    AttendSparsePush p{};
                    p.table_stride = cache.layout().table_stride();
                    p.list_stride = listed;
                    stage.record(r,
                                 {st, cache.tables(), cache.keys(0), cache.values(0), query, partials, counters, out, act,
                                  list_buffer, control, head_maps, lse, counts},
                                 p);
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
