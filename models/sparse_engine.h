// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "models/sparse_meter.h"
#include "runtime/decode/attention_pipeline.h"
#include "runtime/decode/decode_loop.h"
#include "runtime/decode/decode_plan.h"
#include "winnow/session.h"

namespace winnow {

/// What each head sees under a policy whose local window is settled, as block tables. Rings stay as they were
/// allocated; a head that keeps everything can be narrowed.
std::vector<std::uint32_t> role_tables(const KvLayout& layout, const SparsePolicy& policy);

/// Everything that a policy decides: made anew when the policy changes, while weights and the keys and values in the
/// cache stay. Of the cache it changes what follows from those: block tables, sums of what left the windows, and its
/// own summaries and index keys.
struct SparseEngine {
    /// Writes the block tables. @param options those of the session: audits and how many steps are queued.
    SparseEngine(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
                 StepBuffers& buffers, std::uint32_t n_splits, const SparsePolicy& policy,
                 const SessionOptions& options);

    /// Brings the sums of what left the windows to a cache of n tokens.
    void settle_sums(std::uint32_t n_tokens) const;
    /// Sums, summaries and index keys, after the policy or the length of a cache of n tokens changed. @param from first
    /// token whose summaries may be wrong.
    void refresh(std::uint32_t n_tokens, std::uint32_t from);

    AttentionPipeline attention;
    DecodePlan plan;
    DecodeLoop loop;
    SparseMeter meter;

private:
    vk::Device& device_;
    const ModelShape& shape_;
    const KvCache& cache_;
};

}  // namespace winnow
