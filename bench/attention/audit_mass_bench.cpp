// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/audit_mass.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_audit_mass() {
    register_at_depths("audit_mass", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
        const AttentionSetup on(s, n);
        const auto c = stage_config<AuditMass>(s);
        const AuditMass stage(b.device(), c);
        const vk::Buffer lse = b.buffer(s.n_heads * 4), records = b.buffer(s.n_heads * 8);
        const vk::Buffer partials = b.buffer(c.n_splits * s.n_heads * 16ull);
        b.run(state, AuditMass::bytes_moved(c, n), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r,
                         {on.state, on.cache.tables(), on.cache.keys(0), on.query, lse, partials,
                          on.counters, records},
                         {0, on.cache.layout().table_stride(), 0, 4, 0});
        });
    });
}

}  // namespace winnow::bench
