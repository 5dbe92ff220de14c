// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"

namespace winnow {
namespace {

// Most tokens, in whole blocks, whose pools are all within `limit` bytes. Local heads do not grow with the capacity
// and the full heads beside them do, so this is asked of the layout and not computed from bytes per token.
std::uint32_t largest_capacity(KvConfig config, std::uint64_t limit) {
    std::uint32_t low = 0, high = config.capacity / config.block_size;
    while (low < high) {
        const std::uint32_t middle = high - (high - low) / 2;
        config.capacity = middle * config.block_size;
        if (KvLayout(config).largest_pool_bytes() <= limit) low = middle;
        else high = middle - 1;
    }
    return low * config.block_size;
}

std::vector<bool> summed_heads(const std::vector<HeadRole>& roles) {
    std::vector<bool> summed;
    for (const HeadRole& role : roles) summed.push_back(role.summed);
    return summed;
}

}  // namespace

KvCache::KvCache(vk::Device& device, KvConfig config) : layout_(std::move(config)) {
    const KvConfig& c = layout_.config();
    const std::uint64_t limit =
        std::min(device.limits().max_storage_buffer_range, device.limits().max_allocation_bytes);
    for (std::uint32_t layer = 0; layer < c.n_layers; ++layer) {
        const std::uint64_t bytes = layout_.pool_bytes(layer);
        if (bytes > limit) {
            const std::uint32_t most = largest_capacity(c, limit);
            throw Error(
                ErrorCode::kOutOfMemory,
                fmt::format("the K pool of layer {} needs {} MiB for {} tokens; this device binds at most {} MiB: {}",
                            layer, bytes >> 20, c.capacity, limit >> 20,
                            most != 0 ? fmt::format("use -c {} or less", most) : "use another device"));
        }
        keys_.emplace_back(device, fmt::format("k_pool_{}", layer), bytes, vk::BufferUse::kDevice);
        values_.emplace_back(device, fmt::format("v_pool_{}", layer), bytes, vk::BufferUse::kDevice);
    }
    const std::vector<std::uint32_t> tables = layout_.tables();
    tables_ = vk::Buffer(device, "block_tables", tables.size() * sizeof(std::uint32_t), vk::BufferUse::kDevice);
    vk::Uploader uploader(device);
    uploader.upload(tables_, std::as_bytes(std::span(tables)));
    uploader.finish();
    if (EvictedSums::bytes_needed(c) != 0) evicted_ = EvictedSums(device, c, summed_heads(c.roles));
}

void KvCache::set_summed(vk::Device& device, const std::vector<HeadRole>& roles) {
    const KvConfig& c = layout_.config();
    std::vector<bool> summed = summed_heads(roles);
    std::vector<std::uint32_t> rings;
    for (std::uint32_t i = 0; i < summed.size(); ++i) {
        if (layout_.head(i / c.n_kv_heads, i % c.n_kv_heads).ring_blocks == 0) continue;
        if (summed[i] && !evicted_.is_summed(i))
            throw Error(ErrorCode::kInvalidArgument,
                        "this session's heads have dropped tokens that nobody added up: begin a session with "
                        "--sparse-compensation");
        summed[i] = evicted_.is_summed(i);
        if (summed[i]) rings.push_back(i);
    }
    // The stages ask by layer: beside a head that is summed all rings must be.
    for (std::uint32_t i = 0; i < summed.size(); ++i) {
        const auto layer = summed.begin() + i / c.n_kv_heads * c.n_kv_heads;
        if (!summed[i] && layout_.head(i / c.n_kv_heads, i % c.n_kv_heads).ring_blocks != 0 &&
            std::find(layer, layer + c.n_kv_heads, true) != layer + c.n_kv_heads)
            throw Error(ErrorCode::kInvalidArgument,
                        "other heads of this session have dropped tokens that nobody added up: begin a session with "
                        "these local heads");
    }
    if (std::find(summed.begin(), summed.end(), true) == summed.end()) {
        evicted_ = {};
        return;
    }
    EvictedSums next(device, c, std::move(summed));
    const std::uint64_t row = EvictedSums::row_bytes(c.head_dim);
    if (!rings.empty())
        vk::run_once(device, [&](vk::Recorder& recorder) {
            for (const std::uint32_t i : rings) {
                recorder.copy({evicted_.sums(), i * row, row}, {next.sums(), i * row, row});
                recorder.copy({evicted_.counts(), i * 4ull, 4}, {next.counts(), i * 4ull, 4});
            }
        });
    evicted_ = std::move(next);
}

}  // namespace winnow
