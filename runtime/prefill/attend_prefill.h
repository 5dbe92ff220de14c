// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Causal attention of a chunk over the cache. shaders/prefill/attend_prefill.comp
class AttendPrefill {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange tables, keys, values;
        vk::BufferRange query;     ///< f16 [n_tokens, n_heads, head_dim], scaled
        vk::BufferRange attended;  ///< f16 [n_tokens, n_heads, head_dim]
    };
    AttendPrefill(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const AttendPrefillPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens, std::uint64_t n_cached);

private:
    Config config_;
    std::uint32_t items_ = 8;
    std::uint32_t subgroups_per_group_ = 1;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
