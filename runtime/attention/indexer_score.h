// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/select_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// What is left of scored rows. DO NOT CHANGE THE VALUES: shaders/common/interface.h has the same.
enum class ScoreEnding : std::uint32_t {
    kList = 0,          ///< a sorted list of those that the rule keeps
    kDenominators = 1,  ///< for SelectRows
    kRanges = 2,        ///< for SelectAttend
};

/// One level of selection: scores rows and, by itself or with the stage after it, chooses those that the rule keeps.
/// shaders/attention/indexer_score.comp
class IndexerScore {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        SelectLevel level;
        HeadPool pool = HeadPool::kMax;
        std::uint32_t parent_unit = 0;  ///< of the level above; 0 = this is the first
        bool is_final = true;           ///< lists tokens; else units
        std::uint32_t index_dim = 16;   ///< with index scorers
        std::uint32_t index_unit = 64;  ///< tokens of a row of the index sums; 0 = there are none
        IndexType index_type = IndexType::kF16;
        std::uint32_t max_rows = 0;  ///< most rows that can be scored
        std::uint32_t n_splits = 8;
        bool append_index = false;  ///< also appends the newest token's index key
        bool codes = false;         ///< index keys have codes
        bool append_only = false;   ///< and nothing else
        ScoreEnding ending = ScoreEnding::kList;
        SelectTuning tuning = {};  ///< by the device where it is empty
    };
    struct Buffers {
        vk::BufferRange state, tables;
        vk::BufferRange rows, rows_max;  ///< what the scorer reads; any buffer where it reads none
        vk::BufferRange query;           ///< f32 [n_heads, head_dim], scaled
        vk::BufferRange maps;            ///< f32 per kv head [A: index_dim, head_dim][B: index_dim, head_dim]
        vk::BufferRange keys;            ///< K pool
        vk::BufferRange index_keys, index_sums;
        vk::BufferRange lists, parents;
        vk::BufferRange scores;    ///< f32 [n_heads, score_stride(max_rows)]
        vk::BufferRange partials;  ///< vec2 [n_kv_heads, n_splits + 1, n_group]
        vk::BufferRange counters;
        vk::BufferRange controls;      ///< SelectControl
        vk::BufferRange policies;      ///< HeadPolicy
        vk::BufferRange last_queries;  ///< f32
        vk::BufferRange dropped;       ///< f32 [n_heads]
        vk::BufferRange index_codes;   ///< of index keys; any buffer where they have none
        vk::BufferRange code_tables;   ///< their tables (code_tables)
    };
    IndexerScore(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SelectPush& push) const;
    /// Whether a scorer goes by index keys, or by what is made of them.
    static bool is_indexed(Scorer scorer);
    /// Floats from one head's scores to the next: whole 16-byte loads of 8 rows.
    static std::uint32_t score_stride(std::uint32_t max_rows);
    /// Bytes read for scoring `n_tokens` (all of them candidates).
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
