// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_attend.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/attention/budget_bins.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/attend_tuning.h"
#include "winnow/error.h"

namespace winnow {
namespace {

constexpr std::uint32_t kMinTokens = 64;
// A workgroup ranks all rows of its kv head by itself.
constexpr std::uint32_t kMostRows = 8448;  // blocks of 16 of 131,072 tokens, and some
// By number alone the cut goes through a bin, lowest ids first; by mass a bin is kept whole, and every head has a row
// of bins.
std::uint32_t n_bins(BudgetRule rule, std::uint32_t n_group) {
    if (rule != BudgetRule::kTopP) return 2048;
    return n_group <= 4 ? 512 : 256;
}

// Units that can fall to one workgroup.
std::uint32_t most_chosen(const SelectAttend::Config& c) {
    const std::uint64_t items = (std::uint64_t{c.most_rows} + 5) * c.level.unit + c.most_always;
    const std::uint64_t most = std::max<std::uint64_t>(2 * kMinTokens, items / c.n_splits + c.block_size);
    return static_cast<std::uint32_t>(most / c.level.unit) + 3;
}

bool scores_boxes(const SelectAttend::Config& c) { return c.scores_rows && c.level.scorer == Scorer::kBox; }
bool scores_keys(const SelectAttend::Config& c) {
    return c.scores_rows && c.level.scorer == Scorer::kLowdim && c.level.unit == 1;
}
std::string shader_of(const SelectAttend::Config& c) {
    const char* own = scores_boxes(c) ? "_boxes" : scores_keys(c) ? "_keys" : "";
    return kv_shader(std::string("select_attend") + own, c.kv_type);
}

// Shared memory of the choice, at most.
std::uint64_t own_shared_bytes(const vk::Device& device, const SelectAttend::Config& c) {
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    const std::uint32_t n_rows = rows_of_bins(c.level.rule, group);
    const std::uint32_t n_subgroups = 512 / device.limits().subgroup_size;
    // Bins, units, sums of subgroups, and single words.
    const std::uint64_t keys = scores_keys(c) ? 4ull * group * c.index_dim : 0;
    const std::uint64_t scored = c.scores_rows ? 4ull * group * c.own_rows + 16ull * n_subgroups * group + keys : 0;
    return 4ull * n_rows * n_bins(c.level.rule, group) + 8ull * most_chosen(c) +
           4ull * std::max(n_rows, 2u) * n_subgroups + 256 + scored;
}

// Nothing where the stage cannot do the level, or the device lacks the shared memory for it.
std::optional<AttendVariant> find_variant(vk::Device& device, const SelectAttend::Config& c) {
    const bool can_score = c.parent_unit == 0 ? scores_boxes(c) : scores_keys(c);
    if (c.scores_rows && !can_score) return {};
    if (c.level.unit > c.block_size || c.pool == HeadPool::kEach || c.most_rows > kMostRows) return {};
    const AttendVariant variant = attend_variant(device,
                                                 {shader_of(c), c.kv_type, c.n_heads / c.n_kv_heads, c.head_dim,
                                                  c.n_splits, true, c.skip_values, own_shared_bytes(device, c)},
                                                 c.tuning);
    if (variant.shared_bytes > device.limits().max_shared_memory_bytes) return {};
    return variant;
}

AttendVariant need_variant(vk::Device& device, const SelectAttend::Config& c) {
    const std::optional<AttendVariant> variant = find_variant(device, c);
    if (!variant) throw Error(ErrorCode::kInvalidArgument, "select_attend cannot choose from so many rows, or not so");
    return *variant;
}

}  // namespace

std::unique_ptr<SelectAttend> SelectAttend::make(vk::Device& device, const Config& config) {
    const std::optional<AttendVariant> variant = find_variant(device, config);
    return variant ? std::unique_ptr<SelectAttend>(new SelectAttend(device, config, *variant)) : nullptr;
}

double SelectAttend::bin_width(BudgetRule rule, std::uint32_t n_group) { return bin_nats(n_bins(rule, n_group)); }

SelectAttend::SelectAttend(vk::Device& device, const Config& config)
    : SelectAttend(device, config, need_variant(device, config)) {}

SelectAttend::SelectAttend(vk::Device& device, const Config& config, const AttendVariant& variant) : config_(config) {
    const Config& c = config;
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    const AttendTuning& tuning = variant.tuning;
    const std::uint32_t most_held = device.is_cpu() ? 4 : 8;
    const std::uint32_t held = std::min(most_held, (c.most_rows / tuning.group_size + 4) / 4 * 4);
    std::vector<std::uint32_t> spec{tuning.group_size,
                                    c.head_dim,
                                    group,
                                    c.n_kv_heads,
                                    tuning.lanes,
                                    tuning.group_size / device.limits().subgroup_size,
                                    c.n_splits,
                                    tuning.tokens_in_flight,
                                    c.block_size,
                                    c.quantize && group * c.head_dim % 32 == 0 ? 1u : 0u,
                                    kMinTokens,
                                    c.level.unit,
                                    c.skip_values ? 1u : 0u,
                                    c.n_score_splits,
                                    c.parent_unit,
                                    static_cast<std::uint32_t>(c.level.rule),
                                    static_cast<std::uint32_t>(c.pool),
                                    c.score_stride,
                                    n_bins(c.level.rule, group),
                                    held,
                                    most_chosen(c),
                                    c.evicted ? 1u : 0u};
    if (c.scores_rows) spec.insert(spec.end(), {c.own_rows, c.patience});
    if (scores_keys(c)) spec.insert(spec.end(), {c.index_dim, static_cast<std::uint32_t>(c.index_type)});
    const std::uint32_t n_buffers = scores_keys(c) ? 22 : c.scores_rows ? 21 : 18;
    pipeline_ = vk::ComputePipeline(device, *variant.shader, n_buffers, sizeof(SelectAttendPush), spec,
                                    device.limits().subgroup_size);
}

std::uint32_t SelectAttend::scoring_splits(const Config& c, std::uint32_t most_waiting) {
    return c.most_rows <= c.own_rows ? c.n_splits : waiting_of(c.n_splits, most_waiting);
}

void SelectAttend::record(vk::Recorder& recorder, const Buffers& b, const SelectAttendPush& push) const {
    std::vector<vk::BufferRange> bound{
        b.state,    b.tables,   b.keys,    b.values, b.query,    b.partials,
        b.counters, b.attended, b.act_out, b.lists,  b.controls, b.parents,
        b.lse,      b.counts,   b.scores,  b.ranges, b.policies, config_.evicted ? b.evicted : b.state};
    if (scores_boxes(config_)) bound.insert(bound.end(), {b.box_low, b.box_high, b.arrivals});
    if (scores_keys(config_)) bound.insert(bound.end(), {b.index_keys, b.maps, b.arrivals, b.dropped});
    recorder.dispatch(pipeline_, bound, std::as_bytes(std::span(&push, 1)), config_.n_splits, config_.n_kv_heads);
}

std::uint64_t SelectAttend::bytes_moved(const Config& c, std::uint64_t n_rows, std::uint64_t n_tokens) {
    std::uint64_t row_bytes = 0;  // that it scores
    if (scores_boxes(c)) row_bytes = 2ull * c.head_dim * summary_element_bytes(c.kv_type);
    if (scores_keys(c)) row_bytes = index_row_bytes(c.index_type, c.index_dim);
    return n_tokens * c.n_kv_heads * 2 * kv_row_bytes(c.kv_type, c.head_dim) + n_rows * c.n_heads * 4 +
           n_rows * c.n_kv_heads * row_bytes + 8ull * c.n_heads * c.head_dim +
           (c.quantize ? activation_bytes(c.n_heads * c.head_dim) : 0);
}

}  // namespace winnow
