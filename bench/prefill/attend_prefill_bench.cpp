// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/attend_prefill.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {

void register_attend_prefill() {
    for (const Shape& s : shapes()) {
        const bool cpu = Bench::get().device().is_cpu();
        const std::uint32_t n = cpu ? 16 : 512;
        for (const std::uint32_t depth : cpu ? std::vector<std::uint32_t>{1024} : std::vector<std::uint32_t>{1024, 8192, 32768}) {
            const std::string name = "attend_prefill/" + s.name + "/depth:" + std::to_string(depth);
            benchmark::RegisterBenchmark(name.c_str(), [s, n, depth](benchmark::State& state) {
                Bench& b = Bench::get();
                AttendPrefill::Config c;
                c.n_heads = s.n_heads;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = s.head_dim;
                const AttendPrefill stage(b.device(), c);
                const KvCache cache(b.device(), kv_config(s, depth + n, 1));
                for (const vk::Buffer* pool : {&cache.keys(0), &cache.values(0)})
                    vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(*pool, 0x20102010); });
                const vk::Buffer q = b.buffer(std::uint64_t{n} * s.q_dim() * 2), out = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
                b.run(state, AttendPrefill::bytes_moved(c, n, depth), [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {cache.tables(), cache.keys(0), cache.values(0), q, out}, {n, depth, 0, cache.layout().table_stride()});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
