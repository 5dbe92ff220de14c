// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_dense.h"

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/attend_dense.h"

namespace winnow::bench {
namespace {

/// Random numbers in place of those that are all the same, and what attention makes of them.
struct Checked {
    Checked(AttentionSetup& on, const Shape& s, std::uint32_t n_tokens) {
        Bench& b = Bench::get();
        const KvLayout& layout = on.cache.layout();
        const std::size_t n = std::size_t{layout.layer_blocks(0)} * layout.config().block_size * s.head_dim;
        const std::vector<float> keys = random_halves(n, 1), values = random_halves(n, 2), query = random_halves(s.q_dim(), 3);
        on.query = f32_buffer(query);
        const vk::Buffer from_keys = f16_buffer(keys), from_values = f16_buffer(values);
        vk::run_once(b.device(), [&](vk::Recorder& r) {
            r.copy({from_keys, 0, from_keys.bytes()}, {on.cache.keys(0), 0, from_keys.bytes()});
            r.copy({from_values, 0, from_values.bytes()}, {on.cache.values(0), 0, from_values.bytes()});
        });
        std::vector<reference::HeadView> heads(s.n_kv_heads);
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h)
            for (std::uint32_t i = 0; i < layout.head(0, h).n_blocks; ++i) heads[h].blocks.push_back(layout.head(0, h).first_block + i);
        output = reference::attend_dense(query, {s.head_dim, keys, values, heads}, n_tokens - 1).output;
    }
    std::vector<double> output;
};

}  // namespace

void register_attend_dense() {
    register_at_depths("attend_dense", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
        AttentionSetup on(s, n);
        const std::vector<double> expected = n > kCheckedTokens ? std::vector<double>() : Checked(on, s, n).output;
        auto c = stage_config<AttendDense>(s);
        c.n_splits = on.n_splits;
        const AttendDense stage(b.device(), c);
        b.run(state, AttendDense::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r,
                         {on.state, on.cache.tables(), on.cache.keys(0), on.cache.values(0),
                          on.query, on.partials, on.counters, on.attended, on.act_out},
                         {0, on.cache.layout().table_stride(), 0, WINNOW_NO_SUMS});
        }, [&] {
            if (expected.empty()) return std::string();
            const std::vector<float> got = vk::read_back_as<float>(b.device(), on.attended);
            return difference({got.begin(), got.end()}, expected, 1e-3);
        });
    });
}

}  // namespace winnow::bench
