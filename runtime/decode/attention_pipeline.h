// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/attention/attend_dense.h"
#include "runtime/attention/attend_sparse.h"
#include "runtime/attention/audit_mass.h"
#include "runtime/attention/indexer_score.h"
#include "runtime/attention/select_attend.h"
#include "runtime/attention/select_rows.h"
#include "runtime/attention/sum_evicted.h"
#include "runtime/attention/summarize_block.h"
#include "runtime/decode/attention_memory.h"
#include "runtime/decode/attention_sizes.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/vk/timer.h"
#include "winnow/sparse.h"

namespace winnow {

/// Buffers of one token that the pipeline reads and writes; they belong to the caller.
struct AttentionBuffers {
    vk::BufferRange state;
    vk::BufferRange query;         ///< f32 [n_heads, head_dim], scaled
    vk::BufferRange partials;      ///< attend_partial_bytes()
    vk::BufferRange counters;      ///< one per kv head, zero between steps
    vk::BufferRange attended;      ///< f32 [n_heads, head_dim]
    vk::BufferRange act_attended;  ///< quantised [n_heads * head_dim]
};

/// Order of the attention stages of a layer under a policy, with their barriers. Owns all the memory that selection
/// needs. Knows nothing of weights or MLPs: SparseAttention uses it on other people's queries and keys as well.
class AttentionPipeline {
public:
    /// @param maps index projections f32 [n_layers][n_kv_heads][A, B][index_dim, head_dim]; empty without index
    /// scorers.
    /// @param choose_in_attend whether SelectAttend serves where it can; by the device where absent.
    /// @param appends_index whether record_decode adds the newest token's index key; false where record_prefill has
    /// added it already.
    /// @param most_waiting workgroups of a kv head that may wait for each other; by the device where absent.
    /// @throws Error(kInvalidArgument) from SparsePolicy::check, before anything is allocated.
    AttentionPipeline(vk::Device& device, const AttentionShape& shape, const KvCache& cache,
                      const AttentionBuffers& buffers, std::uint32_t n_splits, const SparsePolicy& policy,
                      std::span<const float> maps = {}, bool quantize = true, std::optional<bool> choose_in_attend = {},
                      bool appends_index = true, std::optional<std::uint32_t> most_waiting = {});

    /// Attention of the newest token, whose key and value are in the cache; ends with a barrier.
    /// @param sparse false: everything is attended (below min_ctx), but index keys are kept up to date (if it appends
    /// them).
    void record_decode(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer, bool sparse) const;
    /// Captured mass of the layer's last attention; runs beside whatever is recorded until the next barrier.
    void record_audit(vk::Recorder& recorder, std::uint32_t layer) const;
    /// Brings the sums of what left the windows to a cache of n tokens (WINNOW_AFTER_STEP: one more than before the
    /// step), once nothing reads them any more; beside whatever is recorded until the next barrier. What leaves is
    /// still there.
    void record_evicted(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens) const;
    /// Summaries and index keys of a prefill chunk in the cache; the caller's next barrier orders it.
    void record_prefill(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens,
                        std::uint32_t position) const;

    /// For calibration: record_prefill also copies the chunk's queries, f16 [n_chunk, n_heads, head_dim], to the
    /// layer's part of `to`, [n_layers, n_chunk, n_heads, head_dim]. Null = no more.
    void capture_queries(const vk::Buffer* from, const vk::Buffer* to) {
        captured_from_ = from;
        captured_to_ = to;
    }

    /// Forgets all lists: before an answer, and after the cache was truncated.
    void reset();

    const SparsePolicy& policy() const { return policy_; }
    bool is_sparse(std::uint32_t layer) const { return policy_.layers[layer].kind != LayerKind::kDense; }
    std::uint32_t summary_unit() const { return summary_unit_; }
    struct Summaries {
        vk::BufferRange min, max, sum;
        std::uint32_t super_first = 0, super_stride = 0;
    };
    Summaries summaries(std::uint32_t layer) const;         ///< what qkv refreshes; empty ranges when there are none
    std::uint32_t n_dispatches(std::uint32_t layer) const;  ///< dependent ones of record_decode under the policy

    /// Tokens attended [n_layers, n_kv_heads] in the step after which the cache has n_tokens, host view; sparse layers
    /// only. Of the last WINNOW_TOKEN_RING steps, so that steps queued ahead do not overwrite it.
    std::span<const std::uint32_t> attended_counts(std::uint32_t n_tokens) const;
    struct Mass {
        float mass, without_sinks;
    };
    /// Audit records [n_layers, n_heads], host view; valid for audited layers once the step has completed.
    std::span<const Mass> audit_records() const;
    /// Tokens that the last list of a selecting layer stands for in a kv head, read back; waits. For reports and tests.
    /// Without reuse in layers or in time the layers share one place: only the layer recorded last has its list still.
    std::vector<std::uint32_t> read_list(std::uint32_t layer, std::uint32_t kv_head) const;
    /// What a kv head may keep at a level; written by the controller between steps.
    HeadPolicy& head_policy(std::uint32_t layer, std::uint32_t kv_head, std::size_t level) {
        return memory_.head_policy(layer, kv_head, level);
    }

    /// Bytes of keys, values, summaries and index keys that the last step read, with n tokens in the cache; behind a
    /// level that cuts by mass, index keys as if it had dropped nothing: only the device knows.
    std::uint64_t bytes_read(std::uint64_t n_tokens, bool sparse) const;

    std::uint64_t bytes() const { return memory_.bytes(); }
    /// What the constructor takes, without a device.
    static std::uint64_t bytes_needed(const AttentionShape& shape, const KvLayout& layout, const SparsePolicy& policy,
                                      std::uint32_t n_select_splits);

private:
    template <class Config>
    Config attend_config(std::uint32_t n_splits, bool quantize) const;
    void make_sparse_attention(std::uint32_t n_splits, bool quantize);
    void make_select_attend(const AttentionSizes& sizes, std::uint32_t n_splits, bool quantize);
    void make_levels(const AttentionSizes& sizes, bool appends_index);
    void record_selection(vk::Recorder& recorder, vk::GpuTimer* timer, std::uint32_t layer) const;
    void record_attend_dense(vk::Recorder& recorder, std::uint32_t layer) const;
    void record_attend_sparse(vk::Recorder& recorder, std::uint32_t layer) const;
    void record_select_attend(vk::Recorder& recorder, std::uint32_t layer) const;
    IndexerScore::Buffers selection_buffers(std::uint32_t layer, std::size_t level) const;
    SelectPush selection_push(std::uint32_t layer, std::size_t level) const;
    std::size_t last_level() const { return policy_.levels.empty() ? 0 : policy_.levels.size() - 1; }
    std::uint32_t n_counts() const { return shape_.n_layers * shape_.n_kv_heads; }
    std::uint32_t first_head(std::uint32_t layer) const { return layer * shape_.n_kv_heads; }
    std::uint32_t evicted_row(std::uint32_t layer) const;  ///< of what attention counts as one more token

    vk::Device& device_;
    AttentionShape shape_;
    const KvCache& cache_;
    AttentionBuffers buffers_;
    SparsePolicy policy_;
    AttentionMemory memory_;
    std::uint32_t summary_unit_ = 0;
    std::uint32_t super_stride_ = 0;
    std::uint32_t most_waiting_ = 0;
    AttendDense attend_dense_;
    std::unique_ptr<AttendSparse> attend_sparse_;
    std::unique_ptr<AuditMass> audit_;
    std::unique_ptr<SummarizeBlock> summarize_;
    std::unique_ptr<SumEvicted> sum_evicted_;
    std::unique_ptr<IndexerScore> append_index_;
    std::vector<IndexerScore> levels_;
    std::vector<std::unique_ptr<SelectRows>> select_rows_;  ///< by level; null where it has few tokens
    bool scores_in_attend_ = false;                         ///< select_attend_ needs none of levels_ for the last one
    std::unique_ptr<SelectAttend> select_attend_;           ///< where it has few rows, and chooses anew in every step
    const vk::Buffer* captured_from_ = nullptr;
    const vk::Buffer* captured_to_ = nullptr;
};

}  // namespace winnow
