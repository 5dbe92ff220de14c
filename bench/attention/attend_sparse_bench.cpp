// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_sparse.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"

namespace winnow::bench {

void register_attend_sparse() {
    register_at_depths("attend_sparse", [](benchmark::State& state, const Shape& s, std::uint32_t n) {
        Bench& b = Bench::get();
        const AttentionSetup on(s, n);
        auto c = stage_config<AttendSparse>(s);
        c.n_splits = on.n_splits;
        const AttendSparse stage(b.device(), c);
        // 5 % of the tokens, evenly spread: the hardest case for a gather.
        const std::uint32_t listed = n / 20;
        std::vector<std::uint32_t> list_words, control_words, map_words;
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
            for (std::uint32_t i = 0; i < listed; ++i) list_words.push_back(i * 20 + h);
            control_words.insert(control_words.end(), {listed, listed, n - 64, n});
            map_words.push_back(h);
        }
        const vk::Buffer lists = b.words(list_words), controls = b.words(control_words), head_maps = b.words(map_words);
        const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
        AttendSparsePush push{};
        push.table_stride = on.cache.layout().table_stride();
        push.list_stride = listed;
        b.run(state, AttendSparse::bytes_moved(c, listed + 64), [&](vk::Recorder& r, std::uint32_t) {
            stage.record(r,
                         {on.state, on.cache.tables(), on.cache.keys(0), on.cache.values(0),
                          on.query, on.partials, on.counters, on.attended, on.act_out, lists,
                          controls, head_maps, lse, counts},
                         push);
        });
    });
}

}  // namespace winnow::bench
