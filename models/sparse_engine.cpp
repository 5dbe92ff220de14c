// SPDX-License-Identifier: Apache-2.0
#include "models/sparse_engine.h"

#include <algorithm>
#include <span>

#include "models/session_plan.h"
#include "runtime/vk/device.h"
#include "runtime/vk/upload.h"
#include "shaders/common/interface.h"

namespace winnow {
namespace {

DecodeLoop::Options loop_options(const KvLayout& layout, const SparsePolicy& policy, const SessionOptions& options) {
    // When an answer ends, the steps queued beyond the token that was read last have appended too many. Beside its
    // window a ring has room for a chunk: were they more, the next token would look back to keys that they took the
    // place of.
    const std::uint32_t most_in_flight = layout.config().max_chunk + 1;
    // An audit is read, and steers, before the next step runs.
    return {options.sparse.audit_every == 0 ? std::min(options.steps_in_flight, most_in_flight) : 1, !policy.is_dense(),
            policy.min_ctx, options.sparse.audit_every, options.replay_steps};
}

}  // namespace

std::vector<std::uint32_t> role_tables(const KvLayout& layout, const SparsePolicy& policy) {
    std::vector<std::uint32_t> tables = layout.tables();
    const std::uint32_t n_kv = layout.config().n_kv_heads;
    for (std::uint32_t i = 0; i < policy.local_heads.size(); ++i) {
        if (!policy.is_local(i) || layout.head(i / n_kv, i % n_kv).ring_blocks != 0) continue;
        tables[i * layout.table_stride() + WINNOW_TABLE_WINDOW] = policy.local_window;
        tables[i * layout.table_stride() + WINNOW_TABLE_SINK_TOKENS] = policy.sink;
    }
    return tables;
}

SparseEngine::SparseEngine(vk::Device& device, const ModelShape& shape, const ModelWeights& weights,
                           const KvCache& cache, StepBuffers& b, std::uint32_t n_splits, const SparsePolicy& policy,
                           const SessionOptions& options)
    : attention(device, attention_shape(shape), cache,
                {b.state, b.query, b.partials, b.counters, b.attended, b.act_attended}, n_splits, policy,
                policy.index_maps ? std::span<const float>(*policy.index_maps) : std::span<const float>()),
      plan(device, shape, weights, cache, b, attention),
      loop(device, plan, b, loop_options(cache.layout(), policy, options)),
      meter(shape, cache.layout(), attention, options.sparse.audit_every),
      device_(device),
      shape_(shape),
      cache_(cache) {
    vk::Uploader(device).upload(cache.tables(),
                                std::as_bytes(std::span<const std::uint32_t>(role_tables(cache.layout(), policy))));
}

void SparseEngine::settle_sums(std::uint32_t n_tokens) const {
    const EvictedSums& sums = cache_.evicted();
    if (!sums) return;
    if (n_tokens == 0) return sums.clear(device_);
    vk::run_once(device_, [&](vk::Recorder& recorder) {
        for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer)
            attention.record_evicted(recorder, layer, n_tokens);
    });
}

void SparseEngine::refresh(std::uint32_t n_tokens, std::uint32_t from) {
    settle_sums(n_tokens);
    if (attention.policy().is_dense()) return;
    attention.reset();
    from = from / WINNOW_SUPER_TOKENS * WINNOW_SUPER_TOKENS;
    if (n_tokens <= from) return;
    // All layers of a deep cache at once would make a display stutter, or a driver give the device up.
    constexpr std::uint32_t kMostKeys = 1u << 16;  // of a submission, unless one layer has more
    const std::uint32_t n_stale = n_tokens - from;
    const std::uint32_t n_at_once = std::max(kMostKeys / n_stale, 1u);
    for (std::uint32_t first = 0; first < shape_.n_layers; first += n_at_once)
        vk::run_once(device_, [&](vk::Recorder& recorder) {
            for (std::uint32_t layer = first; layer < std::min(shape_.n_layers, first + n_at_once); ++layer)
                attention.record_prefill(recorder, layer, n_stale, from);
        });
}

}  // namespace winnow
