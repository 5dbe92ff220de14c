// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/qkv.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"

namespace winnow::bench {

void register_qkv() {
    for (const Shape& s : shapes()) {
        for (const WeightType type : matvec_types()) {
            benchmark::RegisterBenchmark(label("qkv", s, type).c_str(), [s, type](benchmark::State& state) {
                Bench& b = Bench::get();
                Qkv::Config c;
                c.n_embd = s.n_embd;
                c.n_heads = s.n_heads;
                c.n_kv_heads = s.n_kv_heads;
                c.head_dim = c.n_rot = s.head_dim;
                c.type_q = c.type_k = c.type_v = type;
                const Qkv stage(b.device(), c);
                // Q, K and V as one matrix of all rows: the same bytes in the same order.
                const std::uint32_t rows = s.q_dim() + 2 * s.kv_dim();
                const auto w = b.matrices(type, rows, s.n_embd, b.rotation_bytes());
                const KvCache cache(b.device(), kv_config(s, 1024, 1));
                const vk::Buffer st = b.state(100), act = b.buffer(activation_bytes(s.n_embd));
                const vk::Buffer rope = b.buffer(s.head_dim / 2 * 8 * 300), params = b.zeros(16);
                const vk::Buffer query = b.buffer(s.q_dim() * 4);
                const MatrixRef all = matrix_ref(type, rows);
                b.run(state, Qkv::bytes_moved(c), [&](vk::Recorder& r, std::uint32_t i) {
                    stage.record(r,
                                 {w[i % w.size()],
                                  act,
                                  st,
                                  rope,
                                  cache.tables(),
                                  params,
                                  query,
                                  cache.keys(0),
                                  cache.values(0),
                                  {},
                                  {},
                                  {}},
                                 {all, all, all, 1e-5f, 1.0f, 0, 0, cache.layout().table_stride(), 0, 0});
                });
            })->UseManualTime();
        }
    }
}

}  // namespace winnow::bench
