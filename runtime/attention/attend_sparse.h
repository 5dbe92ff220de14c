// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/attend_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Attention of one token over sinks, selected tokens and window. shaders/attention/attend_sparse.comp
class AttendSparse {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t n_splits = 0;
        bool quantize = true;
        std::uint32_t unit = 1;    ///< tokens of a list entry
        bool skip_values = false;  ///< whether AttendSparsePush::skip is heeded
        bool evicted = false;      ///< what left a window counts as one more token
        AttendTuning tuning{};     ///< empty = the table's
    };
    struct Buffers {
        vk::BufferRange state, tables, keys, values;
        vk::BufferRange query;     ///< f32 [n_heads, head_dim], scaled
        vk::BufferRange partials;  ///< attend_partial_bytes()
        vk::BufferRange counters;
        vk::BufferRange attended;   ///< f32 [n_heads, head_dim]
        vk::BufferRange act_out;    ///< quantised [n_heads * head_dim]
        vk::BufferRange lists;      ///< u32
        vk::BufferRange controls;   ///< SelectControl
        vk::BufferRange head_maps;  ///< u32
        vk::BufferRange lse;        ///< f32 [n_heads]
        vk::BufferRange counts;     ///< u32 tokens attended, by layer and kv head
        vk::BufferRange evicted{};  ///< EvictedSums::sums(); not looked at without Config::evicted
    };
    AttendSparse(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const AttendSparsePush& push) const;
    /// @param n_tokens attended, in each kv head.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
