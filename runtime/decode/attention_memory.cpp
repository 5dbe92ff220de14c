// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/attention_memory.h"

#include "runtime/kv/index_codes.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"
#include "winnow/error.h"

namespace winnow {

AttentionMemory::AttentionMemory(vk::Device& device, const AttentionShape& shape, const SparsePolicy& policy,
                                 const AttentionSizes& z, std::span<const float> maps_of)
    : n_kv_heads_(shape.n_kv_heads), lists_serve_once_(lists_serve_once(policy)), list_strides_(z.strides) {
    if (policy.index_dim != 0 && maps_of.size() * 4 != z.maps)
        throw Error(ErrorCode::kInvalidArgument, "the index maps do not fit the model");
    using vk::BufferUse;
    const auto make = [&](const char* name, std::uint64_t bytes, BufferUse use = BufferUse::kDevice) {
        return bytes == 0 ? vk::Buffer() : vk::Buffer(device, name, bytes, use);
    };
    layers.resize(shape.n_layers);
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        Layer& m = layers[layer];
        m.min = make("summary_min", z.summary_rows[layer] * z.summary_element);
        m.max = make("summary_max", z.summary_rows[layer] * z.summary_element);
        m.sum = make("summary_sum", z.summary_rows[layer] * z.summary_sum);
        m.index_keys = make("index_keys", z.index_rows[layer] * index_row_bytes(policy.index_type, policy.index_dim));
        m.index_sums = make("index_sums", z.index_sums[layer] * policy.index_dim * 4);
        m.index_codes = make("index_codes", z.index_codes[layer]);
    }
    none = make("none", 16);
    maps = make("index_maps", z.maps);
    code_tables = make("code_tables", z.code_tables);
    lists = make("lists", z.lists);
    scores = make("scores", z.scores);
    partials = make("select_partials", z.partials);
    counters = make("select_counters", z.counters);
    controls = make("select_controls", z.controls);
    policies = make("head_policies", z.policies, BufferUse::kShared);
    last_queries = make("last_queries", z.queries);
    dropped = make("dropped_mass", z.dropped);
    head_maps = make("head_maps", z.head_maps);
    lse = make("lse", z.lse);
    counts = make("attended_counts", z.counts, BufferUse::kReadback);
    audit_partials = make("audit_partials", z.audit_partials);
    records = make("audit_records", z.records, BufferUse::kReadback);
    ranks = make("select_ranks", z.ranks);
    bins = make("select_bins", z.bins);
    through = make("select_through", z.through);
    cuts = make("select_cuts", z.cuts);

    vk::Uploader uploader(device);
    if (policy.index_dim != 0) uploader.upload(maps, std::as_bytes(maps_of));
    std::vector<std::uint32_t> tables;
    if (has_codes(policy)) {
        tables = pack_code_tables(*policy.index_codes, policy.index_dim);
        uploader.upload(code_tables, std::as_bytes(std::span(tables)));
    }
    std::vector<std::uint32_t> lenders;  // kv heads whose lists serve
    for (const LayerSchedule& layer : policy.layers)
        for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h)
            lenders.push_back(layer.head_map.empty() ? h : layer.head_map[h]);
    uploader.upload(head_maps, std::as_bytes(std::span(lenders)));
    uploader.finish();
    write_policies(shape, policy);
    reset(device);
}

void AttentionMemory::write_policies(const AttentionShape& shape, const SparsePolicy& policy) const {
    constexpr std::uint32_t kNoLimit = 0x7fffffff;
    const std::uint64_t always = std::uint64_t{policy.sink} + policy.window;
    for (std::size_t i = 0; i < policy.levels.size(); ++i) {
        const SelectLevel& level = policy.levels[i];
        const bool last = i + 1 == policy.levels.size();
        HeadPolicy p{};
        p.mass = level.mass;
        p.budget_min = level.budget_min;
        // A token budget counts sinks and window, which need no selection.
        p.budget_max =
            level.budget == 0 ? kNoLimit : static_cast<std::uint32_t>(last ? level.budget - always : level.budget);
        p.budget_share = level.budget == 0 ? 0 : level.budget_share;
        p.threshold = level.threshold;
        for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer)
            for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) head_policy(layer, h, i) = p;
    }
}

void AttentionMemory::reset(vk::Device& device) const {
    vk::run_once(device, [&](vk::Recorder& recorder) {
        recorder.fill(controls, 0);
        recorder.fill(counters, 0);
        if (bins) recorder.fill(bins, 0);
        recorder.fill(counts, 0);
        recorder.fill(records, 0);
    });
}

std::uint32_t AttentionMemory::list_offset(std::uint32_t layer, std::size_t level) const {
    std::uint32_t per_layer = 0, before = 0;
    for (std::size_t i = 0; i < list_strides_.size(); ++i) {
        if (i == level) before = per_layer;
        per_layer += list_strides_[i] * n_kv_heads_;
    }
    return (lists_serve_once_ ? 0 : layer) * per_layer + before;
}

std::uint64_t AttentionMemory::bytes() const {
    std::uint64_t sum = 0;
    for (const Layer& m : layers)
        for (const vk::Buffer* b : {&m.min, &m.max, &m.sum, &m.index_keys, &m.index_sums, &m.index_codes})
            sum += b->bytes();
    for (const vk::Buffer* b : {&none,           &maps,     &code_tables,  &lists,   &scores,    &partials, &counters,
                                &controls,       &policies, &last_queries, &dropped, &head_maps, &lse,      &counts,
                                &audit_partials, &records,  &ranks,        &bins,    &through,   &cuts})
        sum += b->bytes();
    return sum;
}

}  // namespace winnow
