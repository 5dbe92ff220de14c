// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/embed_rows.h"

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_embed_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        benchmark::RegisterBenchmark(("embed_rows/" + s.name).c_str(), [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const EmbedRows::Config c{s.n_embd, WeightType::kQ8_0};
            const EmbedRows stage(b.device(), c);
            const auto table = b.matrices(WeightType::kQ8_0, 1024, s.n_embd, 0);
            const vk::Buffer tokens = b.zeros(n * 4), x = b.buffer(std::uint64_t{n} * s.n_embd * 4);
            b.run(state, EmbedRows::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
                stage.record(r, {table[0], tokens, x}, {matrix_ref(WeightType::kQ8_0, 1024), 0, n, 1.0f});
            });
        })->UseManualTime();
    }
}

}  // namespace winnow::bench
