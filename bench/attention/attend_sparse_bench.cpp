// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/attend_sparse.h"

#include "bench/support/attention_setup.h"
#include "bench/support/registry.h"
#include "tests/reference/attend_sparse.h"

namespace winnow::bench {

void register_attend_sparse() {
    register_attention("attend_sparse", {kKvTypes, true}, [](benchmark::State& state, const AttentionCase& at) {
        Bench& b = Bench::get();
        const AttentionSetup on(at);
        const Shape& s = at.shape;
        auto c = stage_config<AttendSparse>(s);
        c.kv_type = at.kv_type;
        c.n_splits = on.n_splits;
        const AttendSparse stage(b.device(), c);
        // 5 % of the tokens, evenly spread, the hardest case for a gather; and the last block.
        const std::uint32_t middle_end = at.n_tokens - 64, stride = at.n_tokens / 20;
        std::vector<std::vector<std::uint32_t>> lists(s.n_kv_heads);
        std::vector<std::uint32_t> list_words, control_words, map_words;
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
            for (std::uint32_t t = h; t < middle_end && lists[h].size() < stride; t += 20) lists[h].push_back(t);
            const auto listed = static_cast<std::uint32_t>(lists[h].size());
            list_words.insert(list_words.end(), lists[h].begin(), lists[h].end());
            list_words.resize(std::size_t{h + 1} * stride);
            control_words.insert(control_words.end(), {listed, listed, middle_end, at.n_tokens});
            map_words.push_back(h);
        }
        const vk::Buffer list_rows = b.words(list_words), controls = b.words(control_words),
                         head_maps = b.words(map_words);
        const vk::Buffer lse = b.buffer(s.n_heads * 4), counts = b.zeros(s.n_kv_heads * 4);
        AttendSparsePush push{};
        push.table_stride = on.table_stride();
        push.list_stride = stride;
        push.evicted = WINNOW_NO_SUMS;
        b.run(
            state, AttendSparse::bytes_moved(c, lists[0].size() + 64),
            [&](vk::Recorder& r, std::uint32_t i) {
                push.table_offset = on.table_offset(i);
                stage.record(r,
                             {on.state, on.tables(), on.keys(i), on.values(i), on.query, on.partials, on.counters,
                              on.attended, on.act_out, list_rows, controls, head_maps, lse, counts},
                             push);
            },
            [&] {
                return on.check_attended(
                    [&](std::span<const float> query, const reference::CacheView& view, std::uint32_t h) {
                        const reference::SparseView sparse{.list = lists[h], .middle_end = middle_end};
                        return reference::attend_sparse(
                                   query, view, {reference::attended_tokens(view.heads[0], sparse, at.n_tokens - 1)})
                            .output;
                    });
            });
    });
}

}  // namespace winnow::bench
