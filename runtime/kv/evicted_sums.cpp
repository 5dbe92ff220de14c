// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/evicted_sums.h"

#include <algorithm>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"
#include "shaders/common/interface.h"

namespace winnow {

std::uint32_t n_evicted(const HeadRole& role, std::uint32_t position) {
    const std::uint64_t seen = std::uint64_t{role.window} + role.sink_tokens;
    return role.window == 0 || position + 1 <= seen ? 0 : static_cast<std::uint32_t>(position + 1 - seen);
}

EvictedSums::EvictedSums(vk::Device& device, const KvConfig& c, std::vector<bool> summed) : summed_(std::move(summed)) {
    static_assert(kNone == WINNOW_NO_SUMS);
    for (std::uint32_t layer = 0; layer < c.n_layers; ++layer) {
        const auto first = summed_.begin() + layer * c.n_kv_heads;
        first_rows_.push_back(
            std::find(first, first + c.n_kv_heads, true) != first + c.n_kv_heads ? layer * c.n_kv_heads : kNone);
    }
    const std::uint64_t n_rows = summed_.size();
    sums_ = vk::Buffer(device, "evicted_sums", n_rows * row_bytes(c.head_dim), vk::BufferUse::kDevice);
    counts_ = vk::Buffer(device, "evicted_counts", n_rows * 4, vk::BufferUse::kDevice);
    clear(device);
}

std::uint64_t EvictedSums::bytes_needed(const KvConfig& c) {
    const bool any = std::any_of(c.roles.begin(), c.roles.end(), [](const HeadRole& role) { return role.summed; });
    return any ? c.roles.size() * (row_bytes(c.head_dim) + 4) : 0;
}

void EvictedSums::clear(vk::Device& device) const {
    vk::run_once(device, [&](vk::Recorder& recorder) {
        recorder.fill(sums_, 0);
        recorder.fill(counts_, 0);
    });
}

void EvictedSums::assume(vk::Device& device, const KvLayout& layout, std::uint32_t n_tokens) const {
    const KvConfig& c = layout.config();
    std::vector<std::uint32_t> counts(summed_.size(), 0);
    for (std::size_t i = 0; i < counts.size(); ++i) {
        const auto at = static_cast<std::uint32_t>(i);
        const bool is_ring = layout.head(at / c.n_kv_heads, at % c.n_kv_heads).ring_blocks != 0;
        if (summed_[i] && is_ring) counts[i] = n_evicted(c.roles[i], n_tokens);
    }
    vk::Uploader(device).upload(counts_, std::as_bytes(std::span<const std::uint32_t>(counts)));
}

}  // namespace winnow
