// SPDX-License-Identifier: Apache-2.0
#include "bench/tune_selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "bench/support/attention_setup.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/attention/select_rows.h"
#include "runtime/attention/wait.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kIndexDim = 16;
constexpr std::uint32_t kMostSplits = 128;

/// What scoring and choosing read and write, at the most splits.
struct Subject {
    Subject(const Shape& shape, std::uint32_t n_tokens) : s(shape), n(n_tokens), on({shape, KvType::kF16, n_tokens}) {}
    Bench& b = Bench::get();
    Shape s;
    std::uint32_t n, group = s.n_heads / s.n_kv_heads, stride = IndexerScore::score_stride(n + 1);
    AttentionSetup on;
    std::uint64_t blocks = on.cache.layout().layer_blocks(0);
    vk::Buffer rows = b.buffer(blocks * 4 * s.head_dim * 4), high = b.buffer(blocks * 4 * s.head_dim * 4);
    vk::Buffer maps = b.buffer(s.n_kv_heads * 2ull * kIndexDim * s.head_dim * 4);
    vk::Buffer index = b.buffer(blocks * 64 * kIndexDim * 2), sums = b.buffer(blocks * 16 * 4);
    vk::Buffer lists = b.buffer(std::uint64_t{s.n_kv_heads} * n * 4),
               scores = b.buffer(std::uint64_t{s.n_heads} * stride * 4);
    vk::Buffer partials = b.buffer((kMostSplits + 1) * s.n_heads * 8ull);
    vk::Buffer controls = b.zeros(s.n_kv_heads * sizeof(SelectControl)), dropped = b.zeros(s.n_heads * 4);
    vk::Buffer policies = b.words(policy_words()), last = b.buffer(s.q_dim() * 4);
    vk::Buffer ranks = b.buffer(SelectRows::rank_bytes(s.n_kv_heads, stride));
    vk::Buffer bins = b.zeros(SelectRows::bin_bytes(BudgetRule::kTopK, s.n_kv_heads, group));
    vk::Buffer through = b.buffer(SelectRows::through_bytes(BudgetRule::kTopK, s.n_kv_heads, group, kMostSplits));
    vk::Buffer cuts = b.zeros(s.n_kv_heads * sizeof(SelectCut));

    SelectPush push() const {
        SelectPush p{};
        p.table_stride = on.table_stride();
        p.list_stride = n;
        p.sink_tokens = 4;
        p.window = 64;
        p.refresh = 1;
        p.cosine = 2;
        return p;
    }

private:
    std::vector<std::uint32_t> policy_words() const {
        std::vector<std::uint32_t> words;
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) words.insert(words.end(), {0, 0, n / 20, 0, 0});
        return words;
    }
};

}  // namespace

std::vector<Candidate> selections(const Shape& s, std::uint32_t n) {
    vk::Device& device = Bench::get().device();
    using Values = std::vector<std::uint32_t>;
    const Values groups_in_all = device.is_cpu() ? Values{8, 24} : Values{132, 256, 512};
    const Values group_sizes = device.is_cpu() ? Values{64, 128} : Values{256, 512, 1024};
    const auto m = std::make_shared<const Subject>(s, n);
    std::vector<Candidate> list;
    struct Kind {
        const char* name;
        Scorer scorer;
        std::uint32_t unit;
    };
    for (const Kind& kind : {Kind{"box16", Scorer::kBox, 16}, Kind{"box64", Scorer::kBox, 64},
                             Kind{"mean64", Scorer::kMean, 64}, Kind{"lowdim16", Scorer::kLowdim, 1}}) {
        for (const std::uint32_t n_groups : groups_in_all) {
            const std::uint32_t splits = std::clamp(n_groups / s.n_kv_heads, 1u, kMostSplits);
            for (const std::uint32_t group : group_sizes) {
                for (const std::uint32_t lanes : {1u, 2u, 4u, 8u, 16u}) {
                    const std::uint32_t dim = kind.scorer == Scorer::kLowdim ? kIndexDim : s.head_dim;
                    if (lanes * 8 > dim || lanes * 32 < dim || group > device.limits().max_workgroup_invocations)
                        continue;
                    auto c = stage_config<IndexerScore>(s);
                    c.level = {.scorer = kind.scorer, .unit = kind.unit, .rule = BudgetRule::kTopK};
                    c.index_dim = kIndexDim;
                    c.max_rows = n / kind.unit + 1;
                    c.n_splits = splits;
                    c.tuning = {group, lanes};
                    const bool wide = SelectRows::takes(c.level, c.pool, c.max_rows);
                    if (wide) c.ending = ScoreEnding::kDenominators;
                    SelectRows::Config w{.n_heads = s.n_heads,
                                         .n_kv_heads = s.n_kv_heads,
                                         .level = c.level,
                                         .score_stride = IndexerScore::score_stride(c.max_rows),
                                         .n_splits = splits,
                                         .n_score_splits = splits,
                                         .tuning = c.tuning};
                    if (const std::uint32_t waiting = waiting_of(splits, most_waiting(device, s.n_kv_heads))) {
                        w.waits = true;  // as in a session
                        w.n_splits = waiting;
                    }
                    list.push_back({fmt::format("selection_{}/{}/{}", kind.name, s.name, n),
                                    fmt::format("group {} lanes {} splits {}{}", group, lanes, splits,
                                                !wide     ? ""
                                                : w.waits ? ", select_rows waits"
                                                          : ", select_rows"),
                                    IndexerScore::bytes_moved(c, n),
                                    20u,
                                    [=, &device] {
                                        const auto score = std::make_shared<IndexerScore>(device, c);
                                        const auto choose = wide ? std::make_shared<SelectRows>(device, w) : nullptr;
                                        return Record([=](vk::Recorder& r, std::uint32_t) {
                                            score->record(r, {m->on.state, m->on.tables(), m->rows,       m->high,
                                                              m->on.query, m->maps,        m->on.keys(0), m->index,
                                                              m->sums,     m->lists,       m->lists,      m->scores,
                                                              m->partials, m->on.counters, m->controls,   m->policies,
                                                              m->last,     m->dropped,     m->dropped,    m->dropped},
                                                          m->push());
                                            if (!choose) return;
                                            r.barrier();
                                            const SelectRows::Buffers buffers{
                                                m->on.state, m->on.tables(), m->lists, m->lists,   m->scores,
                                                m->partials, m->ranks,       m->bins,  m->through, m->on.counters,
                                                m->controls, m->policies,    m->cuts,  m->dropped};
                                            for (std::uint32_t pass = 0; pass < choose->n_dispatches(); ++pass) {
                                                if (pass != 0) r.barrier();
                                                choose->record(r, buffers, m->push(), pass);
                                            }
                                        });
                                    },
                                    {}});
                }
            }
        }
    }
    return list;
}

}  // namespace winnow::bench
