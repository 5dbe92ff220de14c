// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/embed.h"

#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "bench/support/weights.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/embed.h"

namespace winnow::bench {

void register_embed() {
    register_matvecs(
        "embed", [](const Shape& s) { return s.n_embd; },
        [](benchmark::State& state, const Shape& s, WeightType type) {
            Bench& b = Bench::get();
            const Embed::Config config{s.n_embd, type};
            const Embed stage(b.device(), config);
            const Weights table(type, {1024}, s.n_embd, 0);
            const vk::Buffer st = b.state(0), x = b.buffer(s.n_embd * 4), norm = b.buffer(s.n_embd * 4);
            const vk::Buffer act = b.buffer(activation_bytes(s.n_embd));
            b.run(
                state, Embed::bytes_moved(config),
                [&](vk::Recorder& r, std::uint32_t) {
                    stage.record(r, {table.copy(0), st, x, norm, act}, {table.ref(), 0, 1.0f});
                },
                [&] {
                    const std::uint32_t token = 0;  // of Bench::state
                    const std::vector<float> got = vk::read_back_as<float>(b.device(), x);
                    const reference::Residual expected =
                        reference::embed(table.rows(0, {&token, 1}), 0, 1, std::vector<double>(s.n_embd, 1));
                    return difference({got.begin(), got.end()}, expected.x.values, 1e-5);
                });
        });
}

}  // namespace winnow::bench
