// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_dense.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"
#include "tests/reference/attend_dense.h"

namespace winnow::bench {

void register_attend_dense() {
    register_attention("attend_dense", {kKvTypes, true}, [](benchmark::State& state, const AttentionCase& at) {
        Bench& b = Bench::get();
        const AttentionSetup on(at);
        auto c = stage_config<AttendDense>(at.shape);
        c.kv_type = at.kv_type;
        c.n_splits = on.n_splits;
        const AttendDense stage(b.device(), c);
        b.run(
            state, AttendDense::bytes_moved(c, at.n_tokens),
            [&](vk::Recorder& r, std::uint32_t i) {
                stage.record(r,
                             {on.state, on.tables(), on.keys(i), on.values(i), on.query, on.partials, on.counters,
                              on.attended, on.act_out},
                             {on.table_offset(i), on.table_stride(), 0, WINNOW_NO_SUMS});
            },
            [&] {
                return on.check_attended(
                    [&](std::span<const float> query, const reference::CacheView& view, std::uint32_t) {
                        return reference::attend_dense(query, view, at.n_tokens - 1).output;
                    });
            });
    });
}

}  // namespace winnow::bench
