// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/rope_append.h"

#include "bench/support/check.h"
#include "bench/support/kv_rows.h"
#include "bench/support/registry.h"
#include "bench/support/rope_table.h"
#include "runtime/vk/upload.h"
#include "tests/reference/rope_append.h"

namespace winnow::bench {

void register_rope_append() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        add_bench("rope_append/" + s.name, [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            RopeAppend::Config c;
            c.n_heads = s.n_heads;
            c.n_kv_heads = s.n_kv_heads;
            c.head_dim = c.n_rot = s.head_dim;
            const RopeAppend stage(b.device(), c);
            const KvCache cache(b.device(), kv_config(s, n, 1));
            const RopeTable rope(s.head_dim, n);
            const std::vector<float> projections = random_halves(std::size_t{n} * (s.q_dim() + 2 * s.kv_dim()), 1);
            const vk::Buffer in = f32_buffer(projections), params = b.zeros(16),
                             q = b.buffer(std::uint64_t{n} * s.q_dim() * 2);
            b.run(
                state, RopeAppend::bytes_moved(c, n),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {in, rope.buffer, cache.tables(), params, q, cache.keys(0), cache.values(0)},
                                 {n, 0, 1e-5f, 1.0f, 0, 0, cache.layout().table_stride()});
                },
                [&] {  // the last token
                    reference::RopeAppendInput last;
                    last.n_heads = s.n_heads;
                    last.n_kv_heads = s.n_kv_heads;
                    last.head_dim = last.n_rot = s.head_dim;
                    last.projections = std::span<const float>(projections).last(s.q_dim() + 2 * s.kv_dim());
                    last.frequencies = rope.frequencies;
                    last.position = n - 1;
                    last.eps = 1e-5;
                    const reference::RopeAppendOutput expected = reference::rope_append(last);
                    const std::vector<float> query = f16_values(q, std::size_t{n - 1} * s.q_dim(), s.q_dim());
                    std::string wrong = difference({query.begin(), query.end()}, expected.query.values, 1e-3);
                    for (const bool is_keys : {true, false}) {
                        std::vector<double> got;
                        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
                            const std::size_t row = std::size_t{cache.layout().head(0, h).first_block} * 64 + n - 1;
                            const std::vector<float> values =
                                f16_values(is_keys ? cache.keys(0) : cache.values(0), row * s.head_dim, s.head_dim);
                            got.insert(got.end(), values.begin(), values.end());
                        }
                        if (wrong.empty())
                            wrong = difference(got, is_keys ? expected.keys.values : expected.values.values, 1e-3);
                    }
                    return wrong;
                });
        });
    }
}

}  // namespace winnow::bench
