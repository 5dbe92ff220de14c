// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Sums of the keys and values that no query of their head sees any more. shaders/attention/sum_evicted.comp
class SumEvicted {
public:
    struct Config {
        std::uint32_t n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
    };
    struct Buffers {
        vk::BufferRange state;  ///< read with WINNOW_AFTER_STEP only
        vk::BufferRange tables, keys, values;
        vk::BufferRange sums, counts;  ///< of EvictedSums
    };
    SumEvicted(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SumEvictedPush& push) const;
    /// @param n_tokens that leave the window of each kv head.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
