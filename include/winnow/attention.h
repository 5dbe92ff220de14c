// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "winnow/device.h"
#include "winnow/error.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// Shape of one attention layer.
struct AttentionConfig {
    std::uint32_t n_heads =
        0;  ///< query heads; a multiple of n_kv_heads. The kv head of query head h is h / (n_heads / n_kv_heads)
    std::uint32_t n_kv_heads = 0;
    std::uint32_t head_dim = 0;  ///< a multiple of 8, at most 256
    std::uint32_t capacity = 0;  ///< most tokens
    float scale = 0;             ///< softmax scale; 0 = 1 / sqrt(head_dim)
    KvType kv_type = KvType::kF16;
};

/// One layer of sparse decode attention for people with their own queries, keys and values: a cache on the device, a
/// policy that chooses the tokens, exact attention over them, and an exact measure of what they held. Keys and queries
/// are taken as they are (after RoPE, if the model has it). Not thread-safe. All device memory is taken on
/// construction.
class SparseAttention {
public:
    /// @param policy for one layer; see make_sparse_attention_policy.
    /// @throws Error(kInvalidArgument) before a device is touched, Error(kNoDevice | kUnsupported | kOutOfMemory).
    SparseAttention(const DeviceOptions& device, const AttentionConfig& config, const SparsePolicy& policy);
    ~SparseAttention();
    SparseAttention(const SparseAttention&) = delete;
    SparseAttention& operator=(const SparseAttention&) = delete;

    /// Adds n tokens. @param keys, values [n, n_kv_heads, head_dim]; copied. Blocks until they are on the device.
    /// @throws Error(kInvalidArgument) when the sizes do not fit or the capacity is exceeded, Error(kDeviceLost).
    void append(std::span<const float> keys, std::span<const float> values);

    /// Attention of one query over the cache. @param query [n_heads, head_dim].
    /// Blocks until it is done. @returns [n_heads, head_dim], valid until the next call.
    /// @throws Error(kInvalidArgument) on an empty cache, Error(kDeviceLost) as append: the object is then of no more
    /// use.
    std::span<const float> step(std::span<const float> query);

    /// Share of the softmax weight that the last step's tokens held, per query head [n_heads]: exact, by a pass over
    /// all keys, for which it blocks; 1 after a dense step. @throws Error(kInvalidArgument) before the first step and
    /// after clear(), Error(kDeviceLost).
    std::vector<float> audit();
    /// Tokens that the last step attended to, per kv head; zeros before the first one. Valid until the next step.
    std::vector<std::uint32_t> attended() const;
    /// Ids of the tokens that the last step selected for a kv head, ascending; sinks and window are attended besides.
    /// Reads them back: blocks. @throws Error(kInvalidArgument) for a kv head that is not there, Error(kDeviceLost).
    std::vector<std::uint32_t> selected(std::uint32_t kv_head) const;

    const SparsePolicy& policy() const;
    std::uint32_t n_tokens() const;
    void clear();                        ///< forgets all tokens
    std::uint64_t device_bytes() const;  ///< memory taken
    const DeviceInfo& device() const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// A preset for a single layer that always selects. @throws Error(kInvalidArgument) as make_preset.
SparsePolicy make_sparse_attention_policy(std::string_view preset, const SparseOverrides& overrides = {});

}  // namespace winnow
