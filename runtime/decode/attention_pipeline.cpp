// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/attention_pipeline.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "runtime/decode/attention_sizes.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"

namespace winnow {
namespace {

constexpr std::uint32_t kNoLimit = 0x7fffffff;

AttendDense::Config dense_config(const AttentionShape& s, const KvConfig& kv, std::uint32_t n_splits, bool quantize, bool evicted) {
    AttendDense::Config c;
    c.n_heads = s.n_heads;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = s.head_dim;
    c.kv_type = kv.type;
    c.block_size = kv.block_size;
    c.n_splits = n_splits;
    c.quantize = quantize;
    c.evicted = evicted;
    return c;
}

}  // namespace

AttentionPipeline::AttentionPipeline(vk::Device& device, const AttentionShape& shape, const KvCache& cache,
                                     const AttentionBuffers& buffers, std::uint32_t n_splits, const SparsePolicy& policy,
                                     std::span<const float> maps, bool quantize, std::optional<bool> choose_in_attend,
                                     bool appends_index)
    : device_(device),
      shape_(shape),
      cache_(cache),
      buffers_(buffers),
      policy_((policy.check(shape.n_layers, shape.n_kv_heads), policy)),
      attend_dense_(device, dense_config(shape, cache.layout().config(), n_splits, quantize, policy.compensate)) {
    const KvConfig& kv = cache.layout().config();
    if (policy_.compensate && !cache.evicted())
        throw Error(ErrorCode::kInvalidArgument, "this cache does not add up what leaves a window: leave the compensation out");
    if (cache.evicted())
        sum_evicted_ = std::make_unique<SumEvicted>(
            device, SumEvicted::Config{shape.n_kv_heads, shape.head_dim, kv.type, kv.block_size});
    if (policy_.is_dense()) return;
    using vk::BufferUse;
    const std::uint32_t n_select_splits = select_splits(device.is_cpu(), shape.n_kv_heads, kv.capacity);
    const AttentionSizes z = sizes_of(shape, cache.layout(), policy_, n_select_splits);
    summary_unit_ = z.summary_unit;
    super_stride_ = z.super_stride;
    level_strides_ = z.strides;
    if (policy_.index_dim != 0 && maps.size() * 4 != z.maps)
        throw Error(ErrorCode::kInvalidArgument, "the index maps do not fit the model");

    const auto make = [&](const char* name, std::uint64_t bytes, BufferUse use = BufferUse::kDevice) {
        return bytes == 0 ? vk::Buffer() : vk::Buffer(device, name, bytes, use);
    };
    memory_.resize(shape.n_layers);
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        LayerMemory& m = memory_[layer];
        m.min = make("summary_min", z.summary_rows[layer] * z.summary_element);
        m.max = make("summary_max", z.summary_rows[layer] * z.summary_element);
        m.sum = make("summary_sum", z.summary_rows[layer] * z.summary_sum);
        m.index_keys = make("index_keys", z.index_rows[layer] * index_row_bytes(policy_.index_type, policy_.index_dim));
        m.index_sums = make("index_sums", z.index_sums[layer] * policy_.index_dim * 4);
    }
    none_ = make("none", 16);
    maps_ = make("index_maps", z.maps);
    lists_ = make("lists", z.lists);
    scores_ = make("scores", z.scores);
    select_partials_ = make("select_partials", z.partials);
    select_counters_ = make("select_counters", z.counters);
    controls_ = make("select_controls", z.controls);
    policies_ = make("head_policies", z.policies, BufferUse::kShared);
    last_queries_ = make("last_queries", z.queries);
    dropped_ = make("dropped_mass", z.dropped);
    head_maps_ = make("head_maps", z.head_maps);
    lse_ = make("lse", z.lse);
    counts_ = make("attended_counts", z.counts, BufferUse::kReadback);
    audit_partials_ = make("audit_partials", z.audit_partials);
    records_ = make("audit_records", z.records, BufferUse::kReadback);
    ranks_ = make("select_ranks", z.ranks);
    bins_ = make("select_bins", z.bins);
    through_ = make("select_through", z.through);
    cuts_ = make("select_cuts", z.cuts);

    vk::Uploader uploader(device);
    if (policy_.index_dim != 0) uploader.upload(maps_, std::as_bytes(maps));
    std::vector<std::uint32_t> head_maps;
    for (const LayerSchedule& layer : policy_.layers)
        for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h)
            head_maps.push_back(layer.head_map.empty() ? h : layer.head_map[h]);
    uploader.upload(head_maps_, std::as_bytes(std::span(head_maps)));
    uploader.finish();

    auto* head_policies = policies_.mapped_as<HeadPolicy>();
    const std::uint64_t always = std::uint64_t{policy_.sink} + policy_.window;
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        for (std::size_t i = 0; i < policy_.levels.size(); ++i) {
            const SelectLevel& level = policy_.levels[i];
            const bool last = i + 1 == policy_.levels.size();
            HeadPolicy p{};
            p.mass = level.mass;
            p.budget_min = level.budget_min;
            // A token budget counts sinks and window, which need no selection.
            p.budget_max = level.budget == 0 ? kNoLimit
                                             : static_cast<std::uint32_t>(last ? level.budget - always : level.budget);
            p.budget_share = level.budget == 0 ? 0 : level.budget_share;
            p.threshold = level.threshold;
            for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h)
                head_policies[(layer * policy_.levels.size() + i) * shape.n_kv_heads + h] = p;
        }
    }

    AttendSparse::Config sparse;
    sparse.n_heads = shape.n_heads;
    sparse.n_kv_heads = shape.n_kv_heads;
    sparse.head_dim = shape.head_dim;
    sparse.kv_type = kv.type;
    sparse.block_size = kv.block_size;
    // A part of the cache keeps half as many workgroups busy as all of it: on an H200 the lists of 5 % of 131,072 tokens were attended in
    // 30 us in place of 35, with the choice in the same stage 45 in place of 55.
    sparse.n_splits = device.is_cpu() ? n_splits : (n_splits + 1) / 2;
    sparse.quantize = quantize;
    sparse.skip_values = policy_.value_skip > 0;
    sparse.unit = policy_.levels.empty() ? 1 : policy_.levels.back().unit;
    sparse.evicted = policy_.compensate;
    attend_sparse_ = std::make_unique<AttendSparse>(device, sparse);
    audit_ = std::make_unique<AuditMass>(device, AuditMass::Config{shape.n_heads, shape.n_kv_heads, shape.head_dim, kv.type,
                                                                   kv.block_size, kAuditSplits});
    if (summary_unit_ != 0 || policy_.index_dim != 0) {
        summarize_ = std::make_unique<SummarizeBlock>(
            device, SummarizeBlock::Config{shape.n_kv_heads, shape.head_dim, kv.type, kv.block_size, summary_unit_,
                                           policy_.index_dim, index_unit_of(policy_), policy_.index_type});
    }
    // On a software driver every workgroup of a kv head would choose in turn what one of them can choose for all.
    // An anchor attends to everything: its list is for others, and a stage that attends makes none for it.
    const bool has_anchors = std::any_of(policy_.layers.begin(), policy_.layers.end(),
                                         [](const LayerSchedule& l) { return l.kind == LayerKind::kAnchor; });
    if (!policy_.levels.empty() && !cuts_ && policy_.refresh <= 1 && !has_anchors) {
        const SelectAttend::Config c{.n_heads = sparse.n_heads, .n_kv_heads = sparse.n_kv_heads, .head_dim = sparse.head_dim,
                    .kv_type = sparse.kv_type, .block_size = sparse.block_size, .n_splits = sparse.n_splits, .quantize = quantize,
                    .skip_values = sparse.skip_values, .level = policy_.levels.back(), .pool = policy_.pool,
                    .parent_unit = policy_.levels.size() > 1 ? policy_.levels[policy_.levels.size() - 2].unit : 0,
                    .most_rows = last_rows(policy_, kv.capacity, false),
                    .most_always = std::min(policy_.sink + std::min(policy_.window, kv.capacity) + kv.block_size, kv.capacity),
                    .score_stride = IndexerScore::score_stride(z.max_rows), .n_score_splits = n_select_splits,
                    .evicted = policy_.compensate};
        const bool wanted = choose_in_attend.value_or(!device.is_cpu());
        if (wanted && SelectAttend::takes(device, c)) select_attend_ = std::make_unique<SelectAttend>(device, c);
    }
    IndexerScore::Config base;
    base.n_heads = shape.n_heads;
    base.n_kv_heads = shape.n_kv_heads;
    base.head_dim = shape.head_dim;
    base.kv_type = kv.type;
    base.block_size = kv.block_size;
    base.pool = policy_.pool;
    base.index_dim = std::max(policy_.index_dim, 8u);
    base.index_unit = index_unit_of(policy_);
    base.index_type = policy_.index_type;
    base.max_rows = z.max_rows;
    base.n_splits = n_select_splits;
    for (std::size_t i = 0; i < policy_.levels.size(); ++i) {
        IndexerScore::Config c = base;
        c.level = policy_.levels[i];
        c.parent_unit = i == 0 ? 0 : policy_.levels[i - 1].unit;
        c.is_final = i + 1 == policy_.levels.size();
        c.append_index = appends_index && i == 0 && policy_.index_dim != 0;
        if (c.is_final && cuts_) c.ending = ScoreEnding::kDenominators;
        if (c.is_final && select_attend_) c.ending = ScoreEnding::kRanges;
        levels_.emplace_back(device, c);
        if (c.ending != ScoreEnding::kDenominators) continue;
        select_rows_ = std::make_unique<SelectRows>(
            device, SelectRows::Config{c.n_heads, c.n_kv_heads, c.block_size, c.level, c.pool, c.parent_unit,
                                       IndexerScore::score_stride(c.max_rows), n_select_splits, n_select_splits, {}});
    }
    if (appends_index && policy_.index_dim != 0) {
        IndexerScore::Config c = base;
        c.level.scorer = Scorer::kLowdim;
        c.append_index = c.append_only = true;
        append_index_ = std::make_unique<IndexerScore>(device, c);
    }
    reset();
}

bool AttentionPipeline::selects(std::uint32_t layer) const {
    const LayerKind kind = policy_.layers[layer].kind;
    return kind == LayerKind::kSelect || kind == LayerKind::kAnchor;
}

std::uint32_t AttentionPipeline::control(std::uint32_t layer, std::size_t level) const {
    return static_cast<std::uint32_t>((layer * policy_.levels.size() + level) * shape_.n_kv_heads);
}

std::uint32_t AttentionPipeline::list_offset(std::uint32_t layer, std::size_t level) const {
    std::uint32_t per_layer = 0, before = 0;
    for (std::size_t i = 0; i < level_strides_.size(); ++i) {
        if (i == level) before = per_layer;
        per_layer += level_strides_[i] * shape_.n_kv_heads;
    }
    return (lists_serve_once(policy_) ? 0 : layer) * per_layer + before;
}

IndexerScore::Buffers AttentionPipeline::selection_buffers(std::uint32_t layer, std::size_t level) const {
    const LayerMemory& m = memory_[layer];
    const vk::BufferRange none = none_;
    const vk::BufferRange index_keys = m.index_keys ? vk::BufferRange(m.index_keys) : none;
    const vk::BufferRange index_sums = m.index_sums ? vk::BufferRange(m.index_sums) : none;
    vk::BufferRange rows = none, rows_max = none;
    switch (policy_.levels.empty() ? Scorer::kExact : policy_.levels[level].scorer) {
        case Scorer::kBox:
            rows = m.min;
            rows_max = m.max;
            break;
        case Scorer::kMean: rows = m.sum; break;
        case Scorer::kLowdimMean: rows = index_sums; break;
        case Scorer::kExact:
        case Scorer::kLowdim: break;
    }
    return {buffers_.state,   cache_.tables(), rows,       rows_max,  buffers_.query, maps_,
            cache_.keys(layer), index_keys,    index_sums, lists_,    lists_,         scores_,
            select_partials_, select_counters_, controls_, policies_, last_queries_,  dropped_};
}

SelectPush AttentionPipeline::selection_push(std::uint32_t layer, std::size_t level) const {
    const KvLayout& layout = cache_.layout();
    const std::size_t parent = level == 0 ? 0 : level - 1;
    const std::size_t last = policy_.levels.empty() ? 0 : policy_.levels.size() - 1;
    SelectPush p{};
    p.table_offset = layout.table_offset(layer);
    p.table_stride = layout.table_stride();
    p.list_offset = list_offset(layer, level);
    p.list_stride = level_strides_.empty() ? 0 : level_strides_[level];
    p.parent_offset = list_offset(layer, parent);
    p.parent_stride = level_strides_.empty() ? 0 : level_strides_[parent];
    p.control = control(layer, level);
    p.parent_control = control(layer, parent);
    p.final_control = control(layer, last);
    p.policy = control(layer, level);
    p.maps = layer * shape_.n_kv_heads * 2 * policy_.index_dim * shape_.head_dim;
    p.counter = 0;
    p.sink_tokens = policy_.sink;
    p.window = policy_.window;
    p.refresh = policy_.refresh;
    p.cosine = policy_.cosine;
    p.last_query = layer * shape_.n_heads * shape_.head_dim;
    p.super_first = summary_unit_ == 0 ? 0 : layout.layer_blocks(layer) * (layout.config().block_size / summary_unit_);
    p.super_stride = super_stride_;
    return p;
}

void AttentionPipeline::record_selection(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer) const {
    for (std::size_t level = 0; level < levels_.size(); ++level) {
        levels_[level].record(recorder, selection_buffers(layer, level), selection_push(layer, level));
        recorder.barrier();
        recorder.timestamp(timer, "indexer_score");
    }
    if (!select_rows_) return;
    const std::size_t last = levels_.size() - 1;
    const SelectRows::Buffers buffers{buffers_.state, cache_.tables(), lists_, lists_,    scores_,   select_partials_, ranks_, bins_, through_,
                                      select_counters_, controls_, policies_, cuts_};
    const SelectPush push = selection_push(layer, last);
    select_rows_->record_count(recorder, buffers, push);
    recorder.barrier();
    select_rows_->record_write(recorder, buffers, push);
    recorder.barrier();
    recorder.timestamp(timer, "select_rows");
}

void AttentionPipeline::record_decode(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer,
                                      bool sparse) const {
    const KvLayout& layout = cache_.layout();
    const LayerSchedule& schedule = policy_.layers[layer];
    const bool dense = !sparse || schedule.kind == LayerKind::kDense || schedule.kind == LayerKind::kAnchor;
    if (sparse && selects(layer)) record_selection(recorder, timer, layer);
    if (!sparse && selects(layer) && append_index_)
        append_index_->record(recorder, selection_buffers(layer, 0), selection_push(layer, 0));
    if (dense) {
        attend_dense_.record(recorder,
                             {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), buffers_.query,
                              buffers_.partials, buffers_.counters, buffers_.attended, buffers_.act_attended, cache_.evicted().sums()},
                             {layout.table_offset(layer), layout.table_stride(), 0, evicted_row(layer)});
        recorder.barrier();
        recorder.timestamp(timer, "attend_dense");
        return;
    }
    const std::uint32_t source = schedule.kind == LayerKind::kReuse ? schedule.source : layer;
    const std::size_t last = levels_.empty() ? 0 : levels_.size() - 1;
    AttendSparsePush p{};
    p.table_offset = layout.table_offset(layer);
    p.table_stride = layout.table_stride();
    p.list_offset = levels_.empty() ? 0 : list_offset(source, last);
    p.list_stride = levels_.empty() ? 0 : level_strides_[last];
    p.control = levels_.empty() ? 0 : control(source, last);
    p.first_count = layer * shape_.n_kv_heads;
    p.head_map = layer * shape_.n_kv_heads;
    p.counter = 0;
    p.sink_tokens = policy_.sink;
    p.window = policy_.window;
    p.window_only = schedule.kind == LayerKind::kWindowOnly ? 1 : 0;
    p.skip = policy_.value_skip;
    p.evicted = evicted_row(layer);
    if (select_attend_ && selects(layer)) {
        const SelectPush select = selection_push(layer, last);
        const SelectAttendPush push{p.table_offset, p.table_stride, select.list_offset, select.list_stride, select.parent_offset,
                                    select.parent_stride, select.control, select.parent_control, select.policy, p.sink_tokens,
                                    p.window, p.first_count, p.counter, p.skip, p.evicted};
        select_attend_->record(recorder,
                               {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), buffers_.query,
                                buffers_.partials, buffers_.counters, buffers_.attended, buffers_.act_attended, lists_, controls_,
                                lists_, lse_, counts_, scores_, select_partials_, policies_, cache_.evicted().sums()},
                               push);
        recorder.barrier();
        recorder.timestamp(timer, "select_attend");
        return;
    }
    attend_sparse_->record(recorder,
                           {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), buffers_.query,
                            buffers_.partials, buffers_.counters, buffers_.attended, buffers_.act_attended, lists_, controls_,
                            head_maps_, lse_, counts_, cache_.evicted().sums()},
                           p);
    recorder.barrier();
    recorder.timestamp(timer, "attend_sparse");
}

std::uint32_t AttentionPipeline::evicted_row(std::uint32_t layer) const {
    return policy_.compensate ? cache_.evicted().first_row(layer) : WINNOW_NO_SUMS;
}

void AttentionPipeline::record_evicted(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens) const {
    const EvictedSums& evicted = cache_.evicted();
    if (!evicted.sums_layer(layer)) return;
    sum_evicted_->record(recorder,
                         {buffers_.state, cache_.tables(), cache_.keys(layer), cache_.values(layer), evicted.sums(), evicted.counts()},
                         {cache_.layout().table_offset(layer), cache_.layout().table_stride(), evicted.first_row(layer), n_tokens});
}

void AttentionPipeline::record_audit(vk::Recorder& recorder, std::uint32_t layer) const {
    const LayerKind kind = policy_.layers[layer].kind;
    if (kind == LayerKind::kDense || kind == LayerKind::kAnchor) return;
    const KvLayout& layout = cache_.layout();
    audit_->record(recorder,
                   {buffers_.state, cache_.tables(), cache_.keys(layer), buffers_.query, lse_, audit_partials_,
                    select_counters_, records_},
                   {layout.table_offset(layer), layout.table_stride(), shape_.n_kv_heads, policy_.sink,
                    layer * shape_.n_heads});
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
    if (!summarize_ || !selects(layer)) return;
    const KvLayout& layout = cache_.layout();
    const LayerMemory& m = memory_[layer];
    const vk::BufferRange none = none_;
    const auto or_none = [&](const vk::Buffer& b) { return b ? vk::BufferRange(b) : none; };
    const SelectPush select = selection_push(layer, 0);
    summarize_->record(recorder,
                       {cache_.tables(), cache_.keys(layer), or_none(m.min), or_none(m.max), or_none(m.sum), maps_,
                        or_none(m.index_keys), or_none(m.index_sums)},
                       {n_tokens, position, layout.table_offset(layer), layout.table_stride(), select.maps,
                        select.super_first, select.super_stride});
}

void AttentionPipeline::reset() {
    if (policy_.is_dense()) return;
    vk::run_once(device_, [&](vk::Recorder& recorder) {
        recorder.fill(controls_, 0);
        recorder.fill(select_counters_, 0);
        if (bins_) recorder.fill(bins_, 0);
        recorder.fill(counts_, 0);
        recorder.fill(records_, 0);
    });
}

AttentionPipeline::Summaries AttentionPipeline::summaries(std::uint32_t layer) const {
    if (summary_unit_ == 0 || !selects(layer)) return {};
    const LayerMemory& m = memory_[layer];
    const SelectPush push = selection_push(layer, 0);
    return {m.min, m.max, m.sum, push.super_first, push.super_stride};
}

std::uint32_t AttentionPipeline::n_dispatches(std::uint32_t layer) const {
    if (!selects(layer)) return 1;
    return 1 + static_cast<std::uint32_t>(levels_.size()) + (select_rows_ ? SelectRows::kDispatches : 0);
}

std::span<const std::uint32_t> AttentionPipeline::attended_counts() const {
    if (policy_.is_dense()) return {};
    return {counts_.mapped_as<const std::uint32_t>(), std::size_t{shape_.n_layers} * shape_.n_kv_heads};
}

std::span<const AttentionPipeline::Mass> AttentionPipeline::audit_records() const {
    if (policy_.is_dense()) return {};
    return {records_.mapped_as<const Mass>(), std::size_t{shape_.n_layers} * shape_.n_heads};
}

std::vector<std::uint32_t> AttentionPipeline::read_list(std::uint32_t layer, std::uint32_t kv_head) const {
    if (levels_.empty() || !selects(layer)) return {};
    const std::size_t last = levels_.size() - 1;
    const auto controls = vk::read_back_as<SelectControl>(device_, controls_);
    const SelectControl& c = controls[control(layer, last) + kv_head];
    const auto words = vk::read_back_as<std::uint32_t>(device_, lists_);
    const auto begin = words.begin() + list_offset(layer, last) + kv_head * level_strides_[last];
    std::vector<std::uint32_t> tokens;
    const std::uint32_t unit = policy_.levels.back().unit;
    for (auto entry = begin; entry != begin + c.n_list; ++entry)
        for (std::uint32_t token = *entry * unit; token < (*entry + 1) * unit; ++token)
            if (token >= policy_.sink && token < c.middle_end) tokens.push_back(token);
    return tokens;
}

HeadPolicy& AttentionPipeline::head_policy(std::uint32_t layer, std::uint32_t kv_head) {
    const std::size_t last = policy_.levels.empty() ? 0 : policy_.levels.size() - 1;
    return policies_.mapped_as<HeadPolicy>()[control(layer, last) + kv_head];
}

HeadPolicy& AttentionPipeline::head_policy(std::uint32_t layer, std::uint32_t kv_head, std::size_t level) {
    return policies_.mapped_as<HeadPolicy>()[control(layer, level) + kv_head];
}

std::uint64_t AttentionPipeline::bytes_read(std::uint64_t n_tokens, bool sparse) const {
    const KvConfig& kv = cache_.layout().config();
    const std::uint64_t row = 2 * kv_row_bytes(kv.type, shape_.head_dim);
    std::uint64_t sum = 0;
    for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
        const LayerKind kind = policy_.layers[layer].kind;
        const bool dense = !sparse || kind == LayerKind::kDense || kind == LayerKind::kAnchor;
        for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
            const std::size_t head = layer * shape_.n_kv_heads + h;
            const bool local = !policy_.local_heads.empty() && policy_.local_heads[head] != 0;
            const std::uint32_t window = local ? policy_.local_window + policy_.sink : kv.roles[head].window;
            const std::uint64_t visible = window == 0 ? n_tokens : std::min<std::uint64_t>(n_tokens, window);
            sum += row * (dense ? visible : attended_counts()[layer * shape_.n_kv_heads + h]);
            if (policy_.compensate && local && visible < n_tokens) sum += EvictedSums::row_bytes(shape_.head_dim);
        }
        if (!sparse || !selects(layer)) continue;
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

std::uint64_t AttentionPipeline::bytes() const {
    std::uint64_t sum = 0;
    for (const LayerMemory& m : memory_)
        for (const vk::Buffer* b : {&m.min, &m.max, &m.sum, &m.index_keys, &m.index_sums}) sum += b->bytes();
    for (const vk::Buffer* b : {&maps_, &lists_, &scores_, &select_partials_, &select_counters_, &controls_, &policies_,
                                &last_queries_, &dropped_, &head_maps_, &lse_, &counts_, &audit_partials_, &records_, &ranks_,
                                &bins_, &through_, &cuts_, &none_})
        sum += b->bytes();
    return sum;
}

std::uint64_t AttentionPipeline::bytes_needed(const AttentionShape& shape, const KvLayout& layout,
                                              const SparsePolicy& policy, std::uint32_t n_select_splits) {
    return sizes_of(shape, layout, policy, n_select_splits).total;
}

}  // namespace winnow
