// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/matvec_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Norm, Q/K/V projections, bias, QK norm, RoPE and the append to the cache. shaders/dense/qkv.comp
class Qkv {
public:
    struct Config {
        std::uint32_t n_embd = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, n_rot = 0;
        std::uint32_t first_kv_head = 0;     ///< of the range whose rows, with those of the groups, the weights hold
        std::uint32_t n_range_kv_heads = 0;  ///< 0 = all
        RopePairing pairing = RopePairing::kNorm;
        bool qk_norm = false;
        bool bias = false;
        WeightType type_q = WeightType::kF32, type_k = WeightType::kF32, type_v = WeightType::kF32;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        std::uint32_t summary_unit = 0;  ///< tokens of a block summary refreshed on append; 0 = none
        MatvecTuning tuning{};           ///< empty = the table's
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange weights, act_in, state, rope, tables, params;
        vk::BufferRange query;                                  ///< f32 [n_heads, head_dim]
        vk::BufferRange keys, values;                           ///< pools
        vk::BufferRange summary_min, summary_max, summary_sum;  ///< with summary_unit only
    };
    /// @throws Error(kUnsupported) for a bias together with QK norm.
    Qkv(vk::Device& device, const Config& config);
    /// Ranges of a layer write apart: no barrier is needed between them.
    void record(vk::Recorder& recorder, const Buffers& buffers, const QkvPush& push) const;
    /// Of a whole layer.
    static std::uint64_t bytes_moved(const Config& config);

private:
    std::uint32_t n_groups_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
