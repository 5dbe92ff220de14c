// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_dense.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_attend_dense() {
    register_at_depths("attend_dense", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
        const AttentionSetup on(s, n);
        auto c = stage_config<AttendDense>(s);
        c.n_splits = on.n_splits;
        const AttendDense stage(b.device(), c);
        b.run(state, AttendDense::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r,
                         {on.state, on.cache.tables(), on.cache.keys(0), on.cache.values(0),
                          on.query, on.partials, on.counters, on.attended, on.act_out},
                         {0, on.cache.layout().table_stride(), 0, WINNOW_NO_SUMS});
        });
    });
}

}  // namespace winnow::bench
