// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/attention_pipeline.h"

#include <algorithm>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"
#include "runtime/vk/upload.h"

namespace winnow {

AttentionPipeline::AttentionPipeline(vk::Device& device, const AttentionShape& shape, const KvCache& cache,
                                     const AttentionBuffers& buffers, std::uint32_t n_splits,
                                     const SparsePolicy& policy, std::span<const float> maps, bool quantize,
                                     std::optional<bool> choose_in_attend, bool appends_index,
                                     std::optional<std::uint32_t> most_waiting)
    : device_(device),
      shape_(shape),
      cache_(cache),
      buffers_(buffers),
      policy_((policy.check(shape.n_layers, shape.n_kv_heads), policy)),
      most_waiting_(most_waiting.value_or(winnow::most_waiting(device, shape.n_kv_heads))),
      attend_dense_(device, attend_config<AttendDense::Config>(n_splits, quantize)) {
    const KvConfig& kv = cache.layout().config();
    if (policy_.compensate && !cache.evicted())
        throw Error(ErrorCode::kInvalidArgument,
                    "this cache does not add up what leaves a window: leave the compensation out");
    if (cache.evicted())
        sum_evicted_ = std::make_unique<SumEvicted>(
            device, SumEvicted::Config{shape.n_kv_heads, shape.head_dim, kv.type, kv.block_size});
    if (policy_.is_dense()) return;
    const AttentionSizes sizes =
        sizes_of(shape, cache.layout(), policy_, select_splits(device.is_cpu(), shape.n_kv_heads, kv.capacity));
    summary_unit_ = sizes.summary_unit;
    super_stride_ = sizes.super_stride;
    memory_ = AttentionMemory(device, shape, policy_, sizes, maps);
    // A part of the cache keeps half as many workgroups busy as all of it: on an H200 the lists of 5 % of 131,072
    // tokens were attended in 30 us in place of 35, with the choice in the same stage 45 in place of 55.
    const std::uint32_t n_sparse_splits = device.is_cpu() ? n_splits : (n_splits + 1) / 2;
    make_sparse_attention(n_sparse_splits, quantize);
    // On a software driver every workgroup of a kv head would choose in turn what one of them can choose for all.
    if (choose_in_attend.value_or(!device.is_cpu())) make_select_attend(sizes, n_sparse_splits, quantize);
    make_levels(sizes, appends_index);
}

// What the three stages that attend have in common.
template <class Config>
Config AttentionPipeline::attend_config(std::uint32_t n_splits, bool quantize) const {
    const KvConfig& kv = cache_.layout().config();
    Config c;
    c.n_heads = shape_.n_heads;
    c.n_kv_heads = shape_.n_kv_heads;
    c.head_dim = shape_.head_dim;
    c.kv_type = kv.type;
    c.block_size = kv.block_size;
    c.n_splits = n_splits;
    c.quantize = quantize;
    c.evicted = policy_.compensate;
    return c;
}

// What follows a choice: attention to it and its audit; and what lets a prompt be chosen from.
void AttentionPipeline::make_sparse_attention(std::uint32_t n_splits, bool quantize) {
    const KvConfig& kv = cache_.layout().config();
    auto c = attend_config<AttendSparse::Config>(n_splits, quantize);
    c.skip_values = policy_.value_skip > 0;
    c.unit = policy_.levels.empty() ? 1 : policy_.levels.back().unit;
    attend_sparse_ = std::make_unique<AttendSparse>(device_, c);
    audit_ = std::make_unique<AuditMass>(device_, AuditMass::Config{shape_.n_heads, shape_.n_kv_heads, shape_.head_dim,
                                                                    kv.type, kv.block_size, kAuditSplits});
    if (summary_unit_ != 0 || policy_.index_dim != 0)
        summarize_ = std::make_unique<SummarizeBlock>(
            device_,
            SummarizeBlock::Config{shape_.n_kv_heads, shape_.head_dim, kv.type, kv.block_size, summary_unit_,
                                   policy_.index_dim, index_unit_of(policy_), policy_.index_type, has_codes(policy_)});
}

// The last level's choice and attention in one stage, where the policy and the device allow it.
void AttentionPipeline::make_select_attend(const AttentionSizes& sizes, std::uint32_t n_splits, bool quantize) {
    // An anchor attends to everything: its list is for others, and a stage that attends makes none for it.
    const bool has_anchors = std::any_of(policy_.layers.begin(), policy_.layers.end(),
                                         [](const LayerSchedule& l) { return l.kind == LayerKind::kAnchor; });
    const KvConfig& kv = cache_.layout().config();
    if (policy_.levels.empty() || chooses_wide(policy_, last_level(), kv.capacity) || policy_.refresh > 1 ||
        has_anchors)
        return;
    auto c = attend_config<SelectAttend::Config>(n_splits, quantize);
    c.skip_values = policy_.value_skip > 0;
    c.level = policy_.levels.back();
    c.pool = policy_.pool;
    c.parent_unit = policy_.levels.size() > 1 ? policy_.levels[policy_.levels.size() - 2].unit : 0;
    c.most_rows = last_rows(policy_, kv.capacity, false);
    // Beside the list, and of heads that have none: what a window sees.
    std::uint64_t most_always = std::uint64_t{policy_.sink} + policy_.window;
    for (const HeadRole& role : kv.roles)
        if (role.local) most_always = std::max(most_always, std::uint64_t{role.window} + role.sink_tokens);
    c.most_always = static_cast<std::uint32_t>(std::min<std::uint64_t>(most_always + kv.block_size, kv.capacity));
    c.score_stride = IndexerScore::score_stride(sizes.max_rows);
    c.n_score_splits = sizes.n_select_splits;
    c.index_dim = std::max(policy_.index_dim, 8u);
    c.index_type = policy_.index_type;
    auto scoring = c;
    scoring.scores_rows = true;
    scoring.n_splits = SelectAttend::scoring_splits(c, most_waiting_);
    // The states of its shares must fit the partials.
    if (scoring.n_splits != 0 && scoring.n_splits <= sizes.n_select_splits)
        select_attend_ = SelectAttend::make(device_, scoring);
    scores_in_attend_ = select_attend_ != nullptr;
    if (!select_attend_) select_attend_ = SelectAttend::make(device_, c);
}

// The levels, the last of which ends as the stage after it needs it; and the append of an index key where nothing is
// selected.
void AttentionPipeline::make_levels(const AttentionSizes& sizes, bool appends_index) {
    const KvConfig& kv = cache_.layout().config();
    IndexerScore::Config base;
    base.n_heads = shape_.n_heads;
    base.n_kv_heads = shape_.n_kv_heads;
    base.head_dim = shape_.head_dim;
    base.kv_type = kv.type;
    base.block_size = kv.block_size;
    base.pool = policy_.pool;
    base.index_dim = std::max(policy_.index_dim, 8u);
    base.index_unit = index_unit_of(policy_);
    base.index_type = policy_.index_type;
    base.codes = has_codes(policy_);
    base.max_rows = sizes.max_rows;
    base.n_splits = sizes.n_select_splits;
    const std::size_t n_levels = policy_.levels.size() - (scores_in_attend_ ? 1 : 0);
    for (std::size_t i = 0; i < n_levels; ++i) {
        IndexerScore::Config c = base;
        c.level = policy_.levels[i];
        c.parent_unit = i == 0 ? 0 : policy_.levels[i - 1].unit;
        c.is_final = i + 1 == policy_.levels.size();
        c.append_index = appends_index && i == 0 && policy_.index_dim != 0;
        if (chooses_wide(policy_, i, kv.capacity)) c.ending = ScoreEnding::kDenominators;
        if (c.is_final && select_attend_) c.ending = ScoreEnding::kRanges;
        levels_.emplace_back(device_, c);
        select_rows_.emplace_back();
        if (c.ending != ScoreEnding::kDenominators) continue;
        SelectRows::Config r;
        r.n_heads = c.n_heads;
        r.n_kv_heads = c.n_kv_heads;
        r.block_size = c.block_size;
        r.level = c.level;
        r.pool = c.pool;
        r.parent_unit = c.parent_unit;
        r.is_final = c.is_final;
        r.score_stride = IndexerScore::score_stride(c.max_rows);
        r.n_splits = r.n_score_splits = sizes.n_select_splits;
        if (const std::uint32_t waiting = waiting_of(r.n_splits, most_waiting_); waiting != 0) {
            r.waits = true;
            r.n_splits = waiting;
        }
        select_rows_.back() = std::make_unique<SelectRows>(device_, r);
    }
    if (appends_index && policy_.index_dim != 0) {
        IndexerScore::Config c = base;
        c.level.scorer = Scorer::kLowdim;
        c.append_index = c.append_only = true;
        append_index_ = std::make_unique<IndexerScore>(device_, c);
    }
}

IndexerScore::Buffers AttentionPipeline::selection_buffers(std::uint32_t layer, std::size_t level) const {
    const AttentionMemory& m = memory_;
    const AttentionMemory::Layer& own = m.layers[layer];
    const vk::BufferRange index_keys = m.or_none(own.index_keys), index_sums = m.or_none(own.index_sums);
    vk::BufferRange rows = m.none, rows_max = m.none;
    switch (policy_.levels.empty() ? Scorer::kExact : policy_.levels[level].scorer) {
        case Scorer::kBox:
            rows = own.min;
            rows_max = own.max;
            break;
        case Scorer::kMean: rows = own.sum; break;
        case Scorer::kLowdimMean: rows = index_sums; break;
        case Scorer::kExact:
        case Scorer::kLowdim:
        case Scorer::kCodes: break;
    }
    return {buffers_.state,
            cache_.tables(),
            rows,
            rows_max,
            buffers_.query,
            m.maps,
            cache_.keys(layer),
            index_keys,
            index_sums,
            m.lists,
            m.lists,
            m.scores,
            m.partials,
            m.counters,
            m.controls,
            m.policies,
            m.last_queries,
            m.dropped,
            m.or_none(own.index_codes),
            m.code_tables};
}

SelectPush AttentionPipeline::selection_push(std::uint32_t layer, std::size_t level) const {
    const KvLayout& layout = cache_.layout();
    const std::size_t parent = level == 0 ? 0 : level - 1;
    SelectPush p{};
    p.table_offset = layout.table_offset(layer);
    p.table_stride = layout.table_stride();
    p.list_offset = memory_.list_offset(layer, level);
    p.list_stride = memory_.list_stride(level);
    p.parent_offset = memory_.list_offset(layer, parent);
    p.parent_stride = memory_.list_stride(parent);
    p.control = memory_.control(layer, level);
    p.parent_control = memory_.control(layer, parent);
    p.final_control = memory_.control(layer, last_level());
    p.policy = memory_.control(layer, level);
    p.maps = first_head(layer) * 2 * policy_.index_dim * shape_.head_dim;
    p.counter = 0;
    p.sink_tokens = policy_.sink;
    p.window = policy_.window;
    p.refresh = policy_.refresh;
    p.cosine = policy_.cosine;
    p.last_query = layer * shape_.n_heads * shape_.head_dim;
    p.super_first = summary_unit_ == 0 ? 0 : layout.layer_blocks(layer) * (layout.config().block_size / summary_unit_);
    p.super_stride = super_stride_;
    p.codes = first_head(layer) * policy_.index_dim * WINNOW_CODE_WORDS;
    return p;
}

void AttentionPipeline::record_selection(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer) const {
    for (std::size_t level = 0; level < levels_.size(); ++level) {
        levels_[level].record(recorder, selection_buffers(layer, level), selection_push(layer, level));
        recorder.barrier();
        recorder.timestamp(timer, "indexer_score");
        if (!select_rows_[level]) continue;
        const AttentionMemory& m = memory_;
        const SelectRows::Buffers buffers{buffers_.state, cache_.tables(), m.lists, m.lists,   m.scores,
                                          m.partials,     m.ranks,         m.bins,  m.through, m.counters,
                                          m.controls,     m.policies,      m.cuts,  m.dropped};
        for (std::uint32_t pass = 0; pass < select_rows_[level]->n_dispatches(); ++pass) {
            select_rows_[level]->record(recorder, buffers, selection_push(layer, level), pass);
            recorder.barrier();
        }
        recorder.timestamp(timer, "select_rows");
    }
}

void AttentionPipeline::record_decode(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer,
                                      bool sparse) const {
    const LayerSchedule& schedule = policy_.layers[layer];
    if (schedule.selects()) {
        if (sparse) record_selection(recorder, timer, layer);
        else if (append_index_) append_index_->record(recorder, selection_buffers(layer, 0), selection_push(layer, 0));
    }
    const char* stage = nullptr;
    if (!sparse || schedule.attends_to_all()) {
        stage = "attend_dense";
        record_attend_dense(recorder, layer);
    } else if (select_attend_ && schedule.selects()) {
        stage = "select_attend";
        record_select_attend(recorder, layer);
    } else {
        stage = "attend_sparse";
        record_attend_sparse(recorder, layer);
    }
    recorder.barrier();
    recorder.timestamp(timer, stage);
}

void AttentionPipeline::record_attend_dense(vk::Recorder& recorder, std::uint32_t layer) const {
    const KvLayout& layout = cache_.layout();
    attend_dense_.record(
        recorder,
        {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), buffers_.query, buffers_.partials,
         buffers_.counters, buffers_.attended, buffers_.act_attended, cache_.evicted().sums()},
        {layout.table_offset(layer), layout.table_stride(), 0, evicted_row(layer)});
}

void AttentionPipeline::record_attend_sparse(vk::Recorder& recorder, std::uint32_t layer) const {
    const AttentionMemory& m = memory_;
    const LayerSchedule& schedule = policy_.layers[layer];
    const std::uint32_t lender = schedule.kind == LayerKind::kReuse ? schedule.source : layer;
    AttendSparsePush p{};
    p.table_offset = cache_.layout().table_offset(layer);
    p.table_stride = cache_.layout().table_stride();
    p.list_offset = m.list_offset(lender, last_level());
    p.list_stride = m.list_stride(last_level());
    p.control = m.control(lender, last_level());
    p.first_count = first_head(layer);
    p.count_stride = n_counts();
    p.head_map = first_head(layer);
    p.counter = 0;
    p.sink_tokens = policy_.sink;
    p.window = policy_.window;
    p.window_only = schedule.kind == LayerKind::kWindowOnly ? 1 : 0;
    p.skip = policy_.value_skip;
    p.evicted = evicted_row(layer);
    attend_sparse_->record(recorder,
                           {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), buffers_.query,
                            buffers_.partials, buffers_.counters, buffers_.attended, buffers_.act_attended, m.lists,
                            m.controls, m.head_maps, m.lse, m.counts, cache_.evicted().sums()},
                           p);
}

void AttentionPipeline::record_select_attend(vk::Recorder& recorder, std::uint32_t layer) const {
    const AttentionMemory& m = memory_;
    const AttentionMemory::Layer& own = m.layers[layer];
    const SelectPush select = selection_push(layer, last_level());
    SelectAttendPush p{};
    p.table_offset = select.table_offset;
    p.table_stride = select.table_stride;
    p.list_offset = select.list_offset;
    p.list_stride = select.list_stride;
    p.parent_offset = select.parent_offset;
    p.parent_stride = select.parent_stride;
    p.control = select.control;
    p.parent_control = select.parent_control;
    p.policy = select.policy;
    p.sink_tokens = select.sink_tokens;
    p.window = select.window;
    p.first_count = first_head(layer);
    p.count_stride = n_counts();
    p.counter = 0;
    p.skip = policy_.value_skip;
    p.evicted = evicted_row(layer);
    p.maps = select.maps;
    select_attend_->record(recorder,
                           {buffers_.state,
                            cache_.tables(),
                            cache_.keys(layer),
                            cache_.values(layer),
                            buffers_.query,
                            buffers_.partials,
                            buffers_.counters,
                            buffers_.attended,
                            buffers_.act_attended,
                            m.lists,
                            m.controls,
                            m.lists,
                            m.lse,
                            m.counts,
                            m.scores,
                            m.partials,
                            m.policies,
                            cache_.evicted().sums(),
                            m.or_none(own.min),
                            m.or_none(own.max),
                            m.or_none(own.index_keys),
                            m.maps,
                            m.dropped,
                            m.counters},
                           p);
}

std::uint32_t AttentionPipeline::evicted_row(std::uint32_t layer) const {
    return policy_.compensate ? cache_.evicted().first_row(layer) : WINNOW_NO_SUMS;
}

void AttentionPipeline::record_evicted(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens) const {
    const EvictedSums& evicted = cache_.evicted();
    if (!evicted.sums_layer(layer)) return;
    sum_evicted_->record(
        recorder,
        {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), evicted.sums(), evicted.counts()},
        {cache_.layout().table_offset(layer), cache_.layout().table_stride(), evicted.first_row(layer), n_tokens});
}

void AttentionPipeline::record_audit(vk::Recorder& recorder, std::uint32_t layer) const {
    if (policy_.layers[layer].attends_to_all()) return;
    const KvLayout& layout = cache_.layout();
    audit_->record(
        recorder,
        {buffers_.state, cache_.tables(), cache_.keys(layer), buffers_.query, memory_.lse, memory_.audit_partials,
         memory_.counters, memory_.records},
        {layout.table_offset(layer), layout.table_stride(), shape_.n_kv_heads, policy_.sink, layer * shape_.n_heads});
}

void AttentionPipeline::record_prefill(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens,
                                       std::uint32_t position) const {
    if (captured_to_ != nullptr) {
        const std::uint64_t row = std::uint64_t{shape_.n_heads} * shape_.head_dim * 2;
        recorder.full_barrier();
        recorder.copy({*captured_from_, 0, n_tokens * row},
                      {*captured_to_, layer * (captured_to_->bytes() / shape_.n_layers), n_tokens * row});
        recorder.full_barrier();
    }
    if (!summarize_ || !policy_.layers[layer].selects()) return;
    const KvLayout& layout = cache_.layout();
    const AttentionMemory& m = memory_;
    const AttentionMemory::Layer& own = m.layers[layer];
    const SelectPush select = selection_push(layer, 0);
    summarize_->record(
        recorder,
        {cache_.tables(), cache_.keys(layer), m.or_none(own.min), m.or_none(own.max), m.or_none(own.sum), m.maps,
         m.or_none(own.index_keys), m.or_none(own.index_sums), m.or_none(own.index_codes), m.code_tables},
        {n_tokens, position, layout.table_offset(layer), layout.table_stride(), select.maps, select.super_first,
         select.super_stride, select.codes});
}

void AttentionPipeline::reset() {
    if (!policy_.is_dense()) memory_.reset(device_);
}

AttentionPipeline::Summaries AttentionPipeline::summaries(std::uint32_t layer) const {
    if (summary_unit_ == 0 || !policy_.layers[layer].selects()) return {};
    const AttentionMemory::Layer& m = memory_.layers[layer];
    const SelectPush push = selection_push(layer, 0);
    return {m.min, m.max, m.sum, push.super_first, push.super_stride};
}

std::uint32_t AttentionPipeline::n_dispatches(std::uint32_t layer) const {
    if (!policy_.layers[layer].selects()) return 1;
    std::uint32_t n = 1;  // which may be all: see SelectAttend::Config::scores_rows
    for (const std::unique_ptr<SelectRows>& wide : select_rows_) n += 1 + (wide ? wide->n_dispatches() : 0);
    return n;
}

std::span<const std::uint32_t> AttentionPipeline::attended_counts(std::uint32_t n_tokens) const {
    if (policy_.is_dense()) return {};
    const std::uint32_t slot = (n_tokens - 1) % WINNOW_TOKEN_RING;
    return {memory_.counts.mapped_as<const std::uint32_t>() + std::size_t{slot} * n_counts(), n_counts()};
}

std::span<const AttentionPipeline::Mass> AttentionPipeline::audit_records() const {
    if (policy_.is_dense()) return {};
    return {memory_.records.mapped_as<const Mass>(), std::size_t{shape_.n_layers} * shape_.n_heads};
}

std::vector<std::uint32_t> AttentionPipeline::read_list(std::uint32_t layer, std::uint32_t kv_head) const {
    if (policy_.levels.empty() || !policy_.layers[layer].selects()) return {};
    const auto controls = vk::read_back_as<SelectControl>(device_, memory_.controls);
    const SelectControl& c = controls[memory_.control(layer, last_level()) + kv_head];
    const auto words = vk::read_back_as<std::uint32_t>(device_, memory_.lists);
    const auto begin =
        words.begin() + memory_.list_offset(layer, last_level()) + kv_head * memory_.list_stride(last_level());
    std::vector<std::uint32_t> tokens;
    const std::uint32_t unit = policy_.levels.back().unit;
    for (auto entry = begin; entry != begin + c.n_list; ++entry)
        for (std::uint32_t token = *entry * unit; token < (*entry + 1) * unit; ++token)
            if (token >= policy_.sink && token < c.middle_end) tokens.push_back(token);
    return tokens;
}

std::uint64_t AttentionPipeline::bytes_read(std::uint64_t n_tokens, bool sparse) const {
    const KvConfig& kv = cache_.layout().config();
    const std::uint64_t row = 2 * kv_row_bytes(kv.type, shape_.head_dim);
    std::uint64_t sum = 0;
    const std::span<const std::uint32_t> counts = attended_counts(static_cast<std::uint32_t>(n_tokens));
    for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
        const bool dense = !sparse || policy_.layers[layer].attends_to_all();
        for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
            const std::size_t head = layer * shape_.n_kv_heads + h;
            const bool local = policy_.is_local(head);
            const std::uint32_t window = local ? policy_.local_window + policy_.sink : kv.roles[head].window;
            const std::uint64_t visible = window == 0 ? n_tokens : std::min<std::uint64_t>(n_tokens, window);
            sum += row * (dense ? visible : counts[head]);
            if (policy_.compensate && local && visible < n_tokens) sum += EvictedSums::row_bytes(shape_.head_dim);
        }
        if (!sparse || !policy_.layers[layer].selects()) continue;
        std::uint64_t candidates = n_tokens;  // what the next level looks at
        for (const SelectLevel& level : policy_.levels) {
            IndexerScore::Config c;
            c.n_kv_heads = shape_.n_kv_heads;
            c.head_dim = shape_.head_dim;
            c.kv_type = kv.type;
            c.level = level;
            c.index_dim = policy_.index_dim;
            c.index_type = policy_.index_type;
            sum += IndexerScore::bytes_moved(c, candidates);
            const auto share = static_cast<std::uint64_t>(level.budget_share * static_cast<double>(n_tokens));
            if (level.budget != 0) candidates = std::min(candidates, std::max<std::uint64_t>(level.budget, share));
        }
    }
    return sum;
}

std::uint64_t AttentionPipeline::bytes_needed(const AttentionShape& shape, const KvLayout& layout,
                                              const SparsePolicy& policy, std::uint32_t n_select_splits) {
    return sizes_of(shape, layout, policy, n_select_splits).total;
}

}  // namespace winnow
