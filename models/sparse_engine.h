// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>

#include "models/model.h"
#include "models/session_plan.h"
#include "runtime/decode/attention_pipeline.h"
#include "runtime/decode/decode_loop.h"
#include "runtime/decode/decode_plan.h"
#include "winnow/session.h"

namespace winnow {

// When an answer ends, the steps queued beyond the token that was read last have appended too many. Beside its window
// a ring has room for a chunk: were they more, the next token would look back to keys that they took the place of.
inline std::uint32_t most_in_flight(const KvLayout& layout) { return layout.config().max_chunk + 1; }

// Everything that a policy decides: rebuilt when the policy changes, while weights and cache stay.
struct SparseEngine {
    SparseEngine(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
                 StepBuffers& b, std::uint32_t n_splits, const SparsePolicy& policy, const SessionOptions& options)
        : attention(device, attention_shape(shape), cache,
                    {b.state, b.query, b.partials, b.counters, b.attended, b.act_attended}, n_splits, policy,
                    policy.index_maps ? std::span<const float>(*policy.index_maps) : std::span<const float>()),
          plan(device, shape, weights, cache, b, attention),
          loop(device, plan, b,
               {options.sparse.audit_every == 0 ? std::min(options.steps_in_flight, most_in_flight(cache.layout())) : 1,
                !policy.is_dense(), policy.min_ctx, options.sparse.audit_every, options.replay_steps}) {}
    AttentionPipeline attention;
    DecodePlan plan;
    DecodeLoop loop;
};

}  // namespace winnow
