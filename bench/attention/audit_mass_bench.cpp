// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/audit_mass.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/vk/timeline.h"

namespace winnow::bench {

void register_audit_mass() {
    for (const Shape& s : shapes()) {
        const std::vector<std::uint32_t> depths = Bench::get().device().is_cpu() ? std::vector<std::uint32_t>{1024, 8192}
                                                                                 : std::vector<std::uint32_t>{1024, 8192, 32768, 131072};
        for (const std::uint32_t n : depths) {
            benchmark::RegisterBenchmark(("audit_mass/" + s.name + "/n_tokens:" + std::to_string(n)).c_str(), [s, n](benchmark::State& state) {
                Bench& b = Bench::get();
                const KvCache cache(b.device(), kv_config(s, n, 1));
                vk::run_once(b.device(), [&](vk::Recorder& r) { r.fill(cache.keys(0), 0x20102010); });
                AuditMass::Config c;
                c.n_heads = s.n_heads;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = s.head_dim;
                const AuditMass stage(b.device(), c);
                const vk::Buffer st = b.state(n - 1), query = b.buffer(s.q_dim() * 4), lse = b.buffer(s.n_heads * 4);
                const vk::Buffer partials = b.buffer(c.n_splits * s.n_heads * 16ull), counters = b.zeros(256);
                const vk::Buffer records = b.buffer(s.n_heads * 8);
                b.run(state, AuditMass::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {st, cache.tables(), cache.keys(0), query, lse, partials, counters, records},
                                 {0, cache.layout().table_stride(), 0, 4, 0});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
