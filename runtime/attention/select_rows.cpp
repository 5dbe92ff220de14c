// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/select_rows.h"

#include <array>

#include "runtime/attention/budget_bins.h"
#include "runtime/vk/device.h"
#include "winnow/error.h"

namespace winnow {
namespace {

// As many bins as fit a workgroup's shared memory. By number alone the cut goes through a bin, lowest ids first, so
// that there finer bins matter more.
constexpr std::uint32_t kBinSpace = 20 * 1024 / 4, kMostBins = 4096;
// One workgroup ranks this many rows in four tiles; of more, the dispatches here cost less (found for two of them).
constexpr std::uint32_t kLeastRows = 16384;

std::uint32_t n_bins(BudgetRule rule, std::uint32_t n_group, bool is_final) {
    std::uint32_t n = kMostBins;
    while (rows_of_bins(rule, n_group, is_final) * n > kBinSpace) n /= 2;
    return n;
}

}  // namespace

bool SelectRows::takes(const SelectLevel& level, HeadPool pool, std::uint32_t max_rows) {
    return level.unit == 1 && pool != HeadPool::kEach && max_rows > kLeastRows;
}

double SelectRows::bin_width(BudgetRule rule, std::uint32_t n_group, bool is_final) {
    return bin_nats(n_bins(rule, n_group, is_final));
}

std::uint64_t SelectRows::rank_bytes(std::uint32_t n_kv_heads, std::uint32_t score_stride) {
    return std::uint64_t{n_kv_heads} * score_stride * 2;
}
std::uint64_t SelectRows::bin_bytes(BudgetRule rule, std::uint32_t n_kv_heads, std::uint32_t n_group, bool is_final) {
    return std::uint64_t{n_kv_heads} * rows_of_bins(rule, n_group, is_final) * n_bins(rule, n_group, is_final) * 4;
}
std::uint64_t SelectRows::through_bytes(BudgetRule rule, std::uint32_t n_kv_heads, std::uint32_t n_group,
                                        std::uint32_t n_splits, bool is_final) {
    return std::uint64_t{n_kv_heads} * n_splits * n_bins(rule, n_group, is_final) * 4;
}

SelectRows::SelectRows(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    if (c.level.unit != 1 || c.pool == HeadPool::kEach)
        throw Error(ErrorCode::kInvalidArgument, "select_rows chooses tokens, once for all heads of a group");
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::uint32_t group_size = select_tuning(device, 1, false, c.tuning).group_size;
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    std::array<std::uint32_t, 14> spec{group_size,
                                       group,
                                       group_size / subgroup,
                                       c.n_splits,
                                       c.n_score_splits,
                                       c.block_size,
                                       c.parent_unit,
                                       static_cast<std::uint32_t>(c.level.rule),
                                       static_cast<std::uint32_t>(c.pool),
                                       c.score_stride,
                                       n_bins(c.level.rule, group, c.is_final),
                                       0,
                                       c.is_final ? 1u : 0u,
                                       c.waits ? c.patience : 0};
    const vk::ShaderVariant& shader = vk::find_shader("select_rows");
    const std::vector<std::uint32_t> passes = c.waits
                                                  ? std::vector<std::uint32_t>{WINNOW_ROWS_ONCE}
                                                  : std::vector<std::uint32_t>{WINNOW_ROWS_COUNT, WINNOW_ROWS_WRITE};
    for (const std::uint32_t pass : passes) {
        spec[11] = pass;
        passes_.emplace_back(device, shader, 14, sizeof(SelectPush), spec, subgroup);
    }
}

void SelectRows::record(vk::Recorder& recorder, const Buffers& b, const SelectPush& push, std::uint32_t pass) const {
    recorder.dispatch(passes_[pass],
                      {b.state, b.tables, b.lists, b.parents, b.scores, b.partials, b.ranks, b.bins, b.through,
                       b.counters, b.controls, b.policies, b.cuts, b.dropped},
                      push, config_.n_splits, config_.n_kv_heads);
}

std::uint64_t SelectRows::bytes_moved(const Config& c, std::uint64_t n_tokens, std::uint64_t n_kept) {
    return n_tokens * (4ull * c.n_heads + 2 * 2ull * c.n_kv_heads) + n_kept * c.n_kv_heads * 4 +
           through_bytes(c.level.rule, c.n_kv_heads, c.n_heads / c.n_kv_heads, c.n_splits, c.is_final);
}

}  // namespace winnow
