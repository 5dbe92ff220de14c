// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/norm_rows.h"

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/norm_rows.h"

namespace winnow::bench {

void register_norm_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        add_bench("norm_rows/" + s.name, [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const NormRows::Config c{s.n_embd, false};
            const NormRows stage(b.device(), c);
            const std::vector<float> rows = random_halves(std::size_t{n} * s.n_embd, 1),
                                     weight = random_halves(s.n_embd, 2);
            const vk::Buffer x = f32_buffer(rows), w = f32_buffer(weight),
                             h = b.buffer(std::uint64_t{n} * s.n_embd * 2);
            b.run(
                state, NormRows::bytes_moved(c, n),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {x, w, h, x}, {n, 1e-5f});
                },
                [&] {  // the last row
                    const std::vector<float> got = f16_values(h, std::size_t{n - 1} * s.n_embd, s.n_embd);
                    const auto row = std::span<const float>(rows).last(s.n_embd);
                    return difference({got.begin(), got.end()}, reference::norm_rows(row, weight, 1e-5).values, 1e-3);
                });
        });
    }
}

}  // namespace winnow::bench
