// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/support/gpu_bench.h"
#include "bench/support/kv_rows.h"

namespace winnow::bench {

/// What an attention bench is run at.
struct AttentionCase {
    Shape shape;
    KvType kv_type = KvType::kF16;
    std::uint32_t n_tokens = 0;  ///< in the cache
};

/// How many cases a stage is registered for.
struct AttentionCases {
    std::vector<KvType> kv_types{KvType::kF16};
    bool every_head = false;  ///< also 8 kv heads of 64, 128 and 256 dimensions with 1 to 8 query heads each
};

/// Registers `stage`/shape/n_tokens:N for every shape and for cached tokens up to 131,072 (8,192 on a software driver);
/// with several types `stage`/shape/kv:TYPE/n_tokens:N. With every_head also `stage`/dim:D/group:G/..., at 32,768 and
/// 131,072 tokens (few and short on a software driver, which compiles wide heads for 10 s and more).
void register_attention(const std::string& stage, const AttentionCases& cases,
                        const std::function<void(benchmark::State&, const AttentionCase&)>& run);

/// A cache, taken in turns by layers where a GPU's own cache would hold one, and the buffers that attention of one
/// token reads and writes besides its lists.
struct AttentionSetup {
    explicit AttentionSetup(const AttentionCase& at);
    KvType kv_type;
    RandomCache cache;
    std::uint32_t n_splits;
    std::vector<float> query_values;  ///< [n_heads, head_dim], scores of which spread by one or two
    vk::Buffer state, query, partials, counters, attended, act_out;

    std::uint32_t layer(std::uint32_t dispatch) const { return dispatch % cache.n_layers(); }
    const vk::Buffer& keys(std::uint32_t dispatch) const { return cache.pools().keys(layer(dispatch)); }
    const vk::Buffer& values(std::uint32_t dispatch) const { return cache.pools().values(layer(dispatch)); }
    const vk::Buffer& tables() const { return cache.pools().tables(); }
    std::uint32_t table_offset(std::uint32_t dispatch) const { return cache.layout().table_offset(layer(dispatch)); }
    std::uint32_t table_stride() const { return cache.layout().table_stride(); }

    std::uint32_t n_heads() const { return static_cast<std::uint32_t>(query_values.size()) / cache.head_dim(); }
    std::uint32_t n_group() const { return n_heads() / cache.layout().config().n_kv_heads; }
    std::span<const float> query_of(std::uint32_t head) const {
        return std::span<const float>(query_values).subspan(std::size_t{head} * cache.head_dim(), cache.head_dim());
    }

    /// What a reference makes of one query head, given its query, a view of the one kv head that it reads, and which
    /// that is: [head_dim].
    using Expected = std::function<std::vector<double>(std::span<const float> query, const reference::CacheView& view,
                                                       std::uint32_t kv_head)>;
    /// What is wrong with `attended`, by the first query head and the last one; empty if nothing is. Calls
    /// `expected` from several threads.
    std::string check_attended(const Expected& expected) const;
};

/// The configuration of an attention stage for the shape; its other fields as they are by default.
template <typename Stage>
typename Stage::Config stage_config(const Shape& shape) {
    typename Stage::Config config;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    return config;
}

}  // namespace winnow::bench
