// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Block summaries and index keys of a prefill chunk. shaders/attention/summarize_block.comp
class SummarizeBlock {
public:
    struct Config {
        std::uint32_t n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t summary_unit = 0;  ///< tokens of a block summary; 0 = none
        std::uint32_t index_dim = 0;     ///< 0 = no index keys
        std::uint32_t index_unit = 64;   ///< tokens of a row of the index sums; 0 = there are none
        IndexType index_type = IndexType::kF16;
        bool codes = false;  ///< index keys have codes
    };
    struct Buffers {
        vk::BufferRange tables, keys;
        vk::BufferRange summary_min, summary_max, summary_sum;
        vk::BufferRange maps, index_keys, index_sums;
        vk::BufferRange index_codes, code_tables;  ///< any buffers where index keys have no codes
    };
    SummarizeBlock(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SummarizePush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
