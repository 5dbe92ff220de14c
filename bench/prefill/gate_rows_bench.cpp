// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/gate_rows.h"

#include "bench/support/check.h"
#include "bench/support/kv_rows.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/gate_rows.h"

namespace winnow::bench {

void register_gate_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        add_bench("gate_rows/" + s.name, [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const GateRows::Config c{s.n_ff, Activation::kSilu};
            const GateRows stage(b.device(), c);
            const std::vector<float> gate_up = random_halves(std::size_t{n} * s.n_ff * 2, 1);
            const vk::Buffer in = f32_buffer(gate_up), h = b.buffer(std::uint64_t{n} * s.n_ff * 2);
            b.run(
                state, GateRows::bytes_moved(c, n),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {in, h}, {n});
                },
                [&] {  // the last row
                    const std::vector<float> got = f16_values(h, std::size_t{n - 1} * s.n_ff, s.n_ff);
                    const auto row = std::span<const float>(gate_up).last(2 * s.n_ff);
                    return difference({got.begin(), got.end()}, reference::gate_rows(row, s.n_ff, c.activation).values,
                                      1e-3);
                });
        });
    }
}

}  // namespace winnow::bench
