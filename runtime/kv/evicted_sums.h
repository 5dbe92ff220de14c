// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/kv/kv_layout.h"
#include "runtime/vk/buffer.h"

namespace winnow {

/// For each kv head the sums of the keys and values that left its window, and how many they are: the compensation token
/// of RazorAttention. A sum is exact (shaders/common/evicted.glsl), so that it can be taken back to any length of the
/// cache whose window is still there.
class EvictedSums {
public:
    EvictedSums() = default;
    /// All zero. @param summed which heads' policy asks for it, [n_layers * n_kv_heads].
    EvictedSums(vk::Device& device, const KvConfig& config, std::vector<bool> summed);

    explicit operator bool() const { return !summed_.empty(); }
    bool is_summed(std::size_t head) const { return head < summed_.size() && summed_[head]; }
    /// Row of the layer's first head; WINNOW_NO_SUMS where none of its heads is summed.
    std::uint32_t first_row(std::uint32_t layer) const { return first_rows_.empty() ? kNone : first_rows_[layer]; }
    bool sums_layer(std::uint32_t layer) const { return first_row(layer) != kNone; }

    /// i64 [n_layers * n_kv_heads, key and value, head_dim], units of 2^-24
    const vk::Buffer& sums() const { return sums_; }
    /// u32 [n_layers * n_kv_heads] tokens that the sums are of
    const vk::Buffer& counts() const { return counts_; }
    std::uint64_t bytes() const { return summed_.empty() ? 0 : sums_.bytes() + counts_.bytes(); }
    static std::uint64_t row_bytes(std::uint32_t head_dim) { return 2ull * head_dim * 8; }
    /// What the constructor takes, without a device.
    static std::uint64_t bytes_needed(const KvConfig& config);

    /// Sums of no token.
    void clear(vk::Device& device) const;
    /// Declares the sums of rings to be those of a cache of n tokens, after they were loaded; other heads' are of no
    /// token.
    void assume(vk::Device& device, const KvLayout& layout, std::uint32_t n_tokens) const;

private:
    static constexpr std::uint32_t kNone = 0xffffffffu;
    std::vector<bool> summed_;
    std::vector<std::uint32_t> first_rows_;
    vk::Buffer sums_, counts_;
};

/// Tokens that a query at `position` no longer sees in a head of this role, sinks apart.
std::uint32_t n_evicted(const HeadRole& role, std::uint32_t position);

}  // namespace winnow
