// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/rope_append.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_rope_append() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        benchmark::RegisterBenchmark(("rope_append/" + s.name).c_str(), [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            RopeAppend::Config c;
            c.n_heads = s.n_heads;
            c.n_kv_heads = s.n_kv_heads;
            c.head_dim = c.n_rot = s.head_dim;
            const RopeAppend stage(b.device(), c);
            const KvCache cache(b.device(), kv_config(s, n, 1));
            const vk::Buffer in = b.buffer(std::uint64_t{n} * (s.q_dim() + 2 * s.kv_dim()) * 4),
                             rope = b.buffer(s.head_dim / 2 * 8 * 300);
            const vk::Buffer params = b.zeros(16), q = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
            b.run(state, RopeAppend::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {in, rope, cache.tables(), params, q, cache.keys(0), cache.values(0)},
                             {n, 0, 1e-5f, 1.0f, 0, 0, cache.layout().table_stride()});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
