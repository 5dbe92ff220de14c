// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/sum_evicted.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"
#include "runtime/kv/evicted_sums.h"

namespace winnow::bench {

// Of n cached tokens one leaves the window, as in each decode step, or comes back into it.
void register_sum_evicted() {
    register_at_depths("sum_evicted", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
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
        b.run(state, SumEvicted::bytes_moved(c, 1), [&](vk::Recorder& r, std::uint32_t i) {
            stage.record(r,
                         {step_state, cache.tables(), cache.keys(0), cache.values(0), cache.evicted().sums(),
                          cache.evicted().counts()},
                         {cache.layout().table_offset(0), cache.layout().table_stride(), 0, n - i % 2});
        });
    });
}

}  // namespace winnow::bench
