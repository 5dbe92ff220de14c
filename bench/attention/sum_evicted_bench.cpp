// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/sum_evicted.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"
#include "runtime/kv/evicted_sums.h"
#include "runtime/vk/upload.h"
#include "tests/reference/dequantize.h"
#include "tests/reference/sum_evicted.h"

namespace winnow::bench {

// Of n cached tokens one leaves the window, as in each decode step, or comes back into it.
void register_sum_evicted() {
    register_attention("sum_evicted", {}, [](benchmark::State& state, const AttentionCase& at) {
        Bench& b = Bench::get();
        const Shape& s = at.shape;
        const std::uint32_t n = at.n_tokens;
        KvConfig config = kv_config(s, n, 1);
        for (HeadRole& role : config.roles) role = {true, n / 2, 4, true};
        const KvCache cache(b.device(), config);
        vk::run_once(b.device(), [&](vk::Recorder& recorder) {
            recorder.fill(cache.keys(0), kSmallValues);
            recorder.fill(cache.values(0), kSmallValues);
        });
        SumEvicted::Config c;
        c.n_kv_heads = s.n_kv_heads;
        c.head_dim = s.head_dim;
        const SumEvicted stage(b.device(), c);
        const vk::Buffer step_state = b.state(n - 1);
        cache.evicted().assume(b.device(), cache.layout(), n - 1);
        b.run(
            state, SumEvicted::bytes_moved(c, 1),
            [&](vk::Recorder& r, std::uint32_t i) {
                stage.record(r,
                             {step_state, cache.tables(), cache.keys(0), cache.values(0), cache.evicted().sums(),
                              cache.evicted().counts()},
                             {cache.layout().table_offset(0), cache.layout().table_stride(), 0, n - i % 2});
            },
            [&] {
                const auto got = vk::read_back_as<std::int64_t>(b.device(), cache.evicted().sums());
                const std::vector<float> row(64ull * s.head_dim,
                                             static_cast<float>(reference::half_to_double(kSmallValues & 0xffff)));
                reference::HeadView head;
                head.window = n / 2;
                head.sink_tokens = 4;
                head.blocks.assign(n / 64 + 1, 0);
                const reference::CacheView view{s.head_dim, row, row, {&head, 1}};
                const std::int64_t one =
                    reference::sum_evicted(view, 0, n).key[0] - reference::sum_evicted(view, 0, n - 1).key[0];
                const auto n_wrong =
                    std::count_if(got.begin(), got.end(), [&](std::int64_t sum) { return sum != one; });
                return n_wrong == 0 ? std::string()
                                    : fmt::format("wrong results: {} of {} sums are not those of one token", n_wrong,
                                                  got.size());
            });
    });
}

}  // namespace winnow::bench
