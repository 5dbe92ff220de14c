// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "runtime/attention/wait.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/select_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/sparse.h"

namespace winnow {

/// The budget rule over the scored tokens of a level, by many workgroups: for lists of tokens that one workgroup would
/// take too long over. After an IndexerScore that ends with denominators. shaders/attention/select_rows.comp
class SelectRows {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0;
        std::uint32_t block_size = 64;
        SelectLevel level;               ///< of units of one token
        HeadPool pool = HeadPool::kMax;  ///< not kEach
        std::uint32_t parent_unit = 0;   ///< of the level above; 0 = this is the first
        bool is_final = true;            ///< no level follows
        std::uint32_t score_stride = 0;  ///< floats from one head's scores to the next, a multiple of 16
        std::uint32_t n_splits = 8;      ///< of this stage
        std::uint32_t n_score_splits = 8;
        /// One dispatch, whose workgroups wait for the others of their kv head and which should therefore all run at
        /// once (n_splits at most most_waiting()): one that looked `patience` times counts all rows.
        bool waits = false;
        std::uint32_t patience = kPatience;
        SelectTuning tuning = {};  ///< by the device where it is empty
    };
    struct Buffers {
        vk::BufferRange state, tables;
        vk::BufferRange lists, parents;
        vk::BufferRange scores, partials;  ///< what IndexerScore left
        vk::BufferRange ranks;             ///< rank_bytes
        vk::BufferRange bins;              ///< bin_bytes, zero between steps
        vk::BufferRange through;           ///< through_bytes
        vk::BufferRange counters, controls, policies;
        vk::BufferRange cuts;     ///< SelectCut [n_kv_heads], of two dispatches
        vk::BufferRange dropped;  ///< f32 [n_heads], written where a level follows
    };
    /// @throws Error(kInvalidArgument) for units of more than a token and for heads that choose each for themselves.
    SelectRows(vk::Device& device, const Config& config);
    /// Dispatch `pass` of n_dispatches(), each behind the caller's barrier after the one before: ranks, bins and the
    /// cut, then the list; or all of it.
    void record(vk::Recorder& recorder, const Buffers& buffers, const SelectPush& push, std::uint32_t pass) const;
    std::uint32_t n_dispatches() const { return static_cast<std::uint32_t>(passes_.size()); }

    /// Whether a level is for this stage: its rows are many, and it ranks tokens once for all heads.
    static bool takes(const SelectLevel& level, HeadPool pool, std::uint32_t max_rows);
    /// Width of a rank's bin, in nats: rows that differ by less count as equal.
    static double bin_width(BudgetRule rule, std::uint32_t n_group, bool is_final = true);
    static std::uint64_t rank_bytes(std::uint32_t n_kv_heads, std::uint32_t score_stride);
    static std::uint64_t bin_bytes(BudgetRule rule, std::uint32_t n_kv_heads, std::uint32_t n_group,
                                   bool is_final = true);
    static std::uint64_t through_bytes(BudgetRule rule, std::uint32_t n_kv_heads, std::uint32_t n_group,
                                       std::uint32_t n_splits, bool is_final = true);
    /// Bytes read and written for `n_tokens` candidates of which `n_kept` are listed.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens, std::uint64_t n_kept);

private:
    Config config_;
    std::vector<vk::ComputePipeline> passes_;
};

}  // namespace winnow
