// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "bench/support/gpu_bench.h"

namespace winnow::bench {

/// Registers `stage`/shape/n_tokens:N for every shape and for cached tokens up to 131,072 (8,192 on a software driver).
void register_at_depths(const std::string& stage,
                        const std::function<void(benchmark::State&, const Shape&, std::uint32_t n_tokens)>& run);

/// A layer's cache whose n_tokens keys and values are all the same.
KvCache filled_cache(const Shape& shape, std::uint32_t n_tokens);

/// The buffers that attention of one token reads and writes besides its lists.
struct AttentionSetup {
    AttentionSetup(const Shape& shape, std::uint32_t n_tokens);
    KvCache cache;
    std::uint32_t n_splits;
    vk::Buffer state, query, partials, counters, attended, act_out;
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
