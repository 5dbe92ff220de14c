// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Captured mass of each query head, exactly. shaders/attention/audit_mass.comp
class AuditMass {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t n_splits = 8;
    };
    struct Buffers {
        vk::BufferRange state, tables, keys;
        vk::BufferRange query;     ///< f32 [n_heads, head_dim], scaled
        vk::BufferRange lse;       ///< f32 [n_heads] over the attended tokens
        vk::BufferRange partials;  ///< vec4 [n_kv_heads, n_splits, n_group]
        vk::BufferRange counters;
        vk::BufferRange records;  ///< vec2 (mass, mass without sinks)
    };
    AuditMass(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const AuditPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
