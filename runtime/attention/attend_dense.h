// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/attend_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Attention of one token over everything its heads see. shaders/attention/attend_dense.comp
class AttendDense {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t n_splits = 0;  ///< most workgroups per kv head; see default_splits
        bool quantize = true;        ///< also write the quantised output; needs n_group * head_dim % 32 == 0
        AttendTuning tuning{};       ///< empty = the table's, and then n_splits may be fewer
        bool evicted = false;        ///< what left a window counts as one more token
    };
    struct Buffers {
        vk::BufferRange state, tables, keys, values;
        vk::BufferRange query;     ///< f32 [n_heads, head_dim], scaled
        vk::BufferRange partials;  ///< attend_partial_bytes()
        vk::BufferRange counters;
        vk::BufferRange attended;   ///< f32 [n_heads, head_dim]
        vk::BufferRange act_out;    ///< quantised [n_heads * head_dim]
        vk::BufferRange evicted{};  ///< EvictedSums::sums(); not looked at without Config::evicted
    };
    AttendDense(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const AttendPush& push) const;
    /// Shader variants that can do the work, the one first that serves best on the device.
    static std::vector<std::string> variants(vk::Device& device, const Config& config);
    /// Splits that fill the device, for a cache of `capacity` tokens.
    static std::uint32_t default_splits(const vk::Device& device, std::uint32_t n_kv_heads, std::uint32_t capacity,
                                        std::uint32_t block_size);
    static std::uint32_t default_splits(bool is_cpu, std::uint32_t n_kv_heads, std::uint32_t capacity,
                                        std::uint32_t block_size);
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;  ///< n_splits: of this stage
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
