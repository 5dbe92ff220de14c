// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/audit_mass.h"

#include <cmath>

#include "bench/support/attention_setup.h"
#include "bench/support/check.h"
#include "bench/support/registry.h"
#include "runtime/vk/upload.h"
#include "tests/reference/audit_mass.h"

namespace winnow::bench {

void register_audit_mass() {
    register_attention("audit_mass", {}, [](benchmark::State& state, const AttentionCase& at) {
        Bench& b = Bench::get();
        const Shape& s = at.shape;
        const AttentionSetup on(at);
        const auto c = stage_config<AuditMass>(s);
        const AuditMass stage(b.device(), c);
        // As if what was attended were a part of the whole.
        const float attended = std::log(static_cast<float>(at.n_tokens) / 2);
        const vk::Buffer lse = f32_buffer(std::vector<float>(s.n_heads, attended)), records = b.buffer(s.n_heads * 8);
        const vk::Buffer partials = b.buffer(c.n_splits * s.n_heads * 16ull);
        b.run(
            state, AuditMass::bytes_moved(c, at.n_tokens),
            [&](vk::Recorder& r, std::uint32_t i) {
                stage.record(r, {on.state, on.tables(), on.keys(i), on.query, lse, partials, on.counters, records},
                             {on.table_offset(i), on.table_stride(), 0, 4, 0});
            },
            [&] {
                const std::vector<float> all = vk::read_back_as<float>(b.device(), records);
                std::vector<double> got, expected;
                for (const std::uint32_t head : first_and_last(s.n_heads)) {
                    const reference::HeadView view = on.cache.head(head / on.n_group());
                    const double over = attended;
                    const reference::CapturedMass mass = reference::audit_mass(
                        on.query_of(head), on.cache.view({&view, 1}), at.n_tokens - 1, 4, {&over, 1})[0];
                    got.insert(got.end(), {all[2 * head], all[2 * head + 1]});
                    expected.insert(expected.end(), {mass.mass, mass.without_sinks});
                }
                return difference(got, expected, 1e-3);
            });
    });
}

}  // namespace winnow::bench
