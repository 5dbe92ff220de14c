// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/embed_rows.h"

#include <algorithm>

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/vk/upload.h"
#include "tests/reference/embed_rows.h"

namespace winnow::bench {

void register_embed_rows() {
    for (const Shape& s : shapes()) {
        const std::uint32_t n = Bench::get().device().is_cpu() ? 16 : 512;
        add_bench("embed_rows/" + s.name, [s, n](benchmark::State& state) {
            Bench& b = Bench::get();
            const EmbedRows::Config c{s.n_embd, WeightType::kQ8_0};
            const EmbedRows stage(b.device(), c);
            const Weights table(c.type, {1024}, s.n_embd, 0);
            std::vector<std::uint32_t> ids;
            for (std::uint32_t i = 0; i < n; ++i) ids.push_back(i * 37 % 1024);
            const vk::Buffer tokens = b.words(ids), x = b.buffer(std::uint64_t{n} * s.n_embd * 4);
            b.run(
                state, EmbedRows::bytes_moved(c, n),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {table.copy(0), tokens, x}, {table.ref(), 0, n, 1.0f});
                },
                [&] {
                    const std::vector<float> got = vk::read_back_as<float>(b.device(), x);
                    const std::vector<std::uint32_t> all = checked_rows(1024);
                    std::vector<double> some, expected;
                    for (std::uint32_t i = 0; i < n; ++i) {
                        const auto known = std::find(all.begin(), all.end(), ids[i]);
                        if (known == all.end()) continue;
                        const auto row = got.begin() + static_cast<std::ptrdiff_t>(std::size_t{i} * s.n_embd);
                        some.insert(some.end(), row, row + s.n_embd);
                        const std::uint32_t first = 0;
                        const reference::Values values =
                            reference::embed_rows(table.rows(0, {&*known, 1}), 0, {&first, 1}, 1);
                        expected.insert(expected.end(), values.values.begin(), values.values.end());
                    }
                    return difference(some, expected, 1e-5);
                });
        });
    }
}

}  // namespace winnow::bench
