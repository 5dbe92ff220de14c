// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>

#include "runtime/attention/wait.h"
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/attend_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// The budget rule over scored rows and the attention of one token over what it keeps, in one dispatch; for rows so few
/// that every workgroup may look at all of them. After an IndexerScore that ends
/// with ranges or, with Config::scores_rows, by itself.
/// shaders/attention/select_attend.comp
class SelectAttend {
public:
    static constexpr std::uint32_t kOwnRows = 256;
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t n_splits = 0;
        bool quantize = true;
        bool skip_values = false;        ///< whether SelectAttendPush::skip is heeded
        SelectLevel level;               ///< of units of at most a block
        HeadPool pool = HeadPool::kMax;  ///< not kEach
        std::uint32_t parent_unit = 0;   ///< of the level above; 0 = this is the first
        std::uint32_t most_rows = 0;     ///< that are chosen from
        std::uint32_t most_always =
            0;  ///< tokens attended besides, or by heads with a window: sinks, window, open block
        std::uint32_t score_stride = 0;  ///< floats from one head's scores to the next, a multiple of 16
        std::uint32_t n_score_splits = 8;
        bool evicted = false;  ///< what left a window counts as one more token
        /// The stage scores its rows itself, with no IndexerScore of the level before it: boxes of a first level, or
        /// index keys below another level. Of more than own_rows each workgroup scores its share and waits for the
        /// others of its kv head, for which all of them should run at once (most_waiting()): one that looked `patience`
        /// times scores all rows.
        bool scores_rows = false;
        std::uint32_t own_rows = kOwnRows;  ///< a multiple of 16, at least 16
        std::uint32_t patience = kPatience;
        std::uint32_t index_dim = 16;  ///< of index keys that it scores
        IndexType index_type = IndexType::kF16;
        AttendTuning tuning{};  ///< empty = the table's
    };
    struct Buffers {
        vk::BufferRange state, tables, keys, values;
        vk::BufferRange query;     ///< f32 [n_heads, head_dim], scaled
        vk::BufferRange partials;  ///< attend_partial_bytes()
        vk::BufferRange counters;
        vk::BufferRange attended;  ///< f32 [n_heads, head_dim]
        vk::BufferRange act_out;   ///< quantised [n_heads * head_dim]
        vk::BufferRange lists, controls, parents;
        vk::BufferRange lse;             ///< f32 [n_heads]
        vk::BufferRange counts;          ///< u32 tokens attended, by layer and kv head
        vk::BufferRange scores, ranges;  ///< what IndexerScore left: its scores and its partials
        vk::BufferRange policies;
        vk::BufferRange evicted{};  ///< EvictedSums::sums(); not looked at without Config::evicted
        /// With Config::scores_rows, which writes `scores` and `ranges` (f32 [n_kv_heads, n_splits, 2, n_group, 2]):
        vk::BufferRange box_low{}, box_high{};            ///< minima and maxima of units, as IndexerScore reads them
        vk::BufferRange index_keys{}, maps{}, dropped{};  ///< as of IndexerScore
        vk::BufferRange arrivals{};                       ///< u32 [n_kv_heads] from SelectAttendPush::counter on, zeros
    };
    /// @throws Error(kInvalidArgument) where make() makes nothing.
    SelectAttend(vk::Device& device, const Config& config);
    /// Nothing where the stage cannot do the level, or the device lacks the shared memory for it.
    static std::unique_ptr<SelectAttend> make(vk::Device& device, const Config& config);
    /// Workgroups to a kv head where a stage like this one scores its rows itself: as many of the n_splits as may wait
    /// for each other, all where the rows are few. 0: it should not. @param most_waiting as winnow::most_waiting()
    static std::uint32_t scoring_splits(const Config& config, std::uint32_t most_waiting);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SelectAttendPush& push) const;

    /// Width of a rank's bin, in nats: rows that differ by less count as equal.
    static double bin_width(BudgetRule rule, std::uint32_t n_group);
    /// @param n_rows that were scored, @param n_tokens that are attended, both in each kv head.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_rows, std::uint64_t n_tokens);

private:
    SelectAttend(vk::Device& device, const Config& config, const AttendVariant& variant);

    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
