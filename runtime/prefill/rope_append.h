// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Bias, QK norm, RoPE and append to the cache for a chunk. shaders/prefill/rope_append.comp
class RopeAppend {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0, n_rot = 0;
        RopePairing pairing = RopePairing::kNorm;
        bool qk_norm = false;
        bool bias = false;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange projections;  ///< f32 [n_tokens, n_heads + 2 n_kv_heads, head_dim]
        vk::BufferRange rope, tables, params;
        vk::BufferRange query;  ///< f16 [n_tokens, n_heads, head_dim], scaled
        vk::BufferRange keys, values;
    };
    RopeAppend(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const RopeAppendPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    std::uint32_t tokens_per_group_ = 1;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
