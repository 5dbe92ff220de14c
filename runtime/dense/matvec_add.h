// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/matvec_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// x += W a and the next norm's quantised input (output and down projections). shaders/dense/matvec_add.comp
class MatvecAdd {
public:
    struct Config {
        std::uint32_t n_out = 0;
        std::uint32_t most_in = 0;  ///< longest row
        WeightType type = WeightType::kF32;
        bool post_norm = false;  ///< RMS norm of the product before the sum
        MatvecTuning tuning{};   ///< of the table, see config_for
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange weights, act_in, state;
        vk::BufferRange x;          ///< f32 [n_out]
        vk::BufferRange next_norm;  ///< f32 [n_out]
        vk::BufferRange act_out;    ///< quantised [n_out]
        vk::BufferRange post_norm;  ///< f32 [n_out]; any buffer without post_norm
        vk::BufferRange raw;        ///< f32 [n_out]; any buffer without post_norm
        vk::BufferRange counters;
    };
    /// For rows of n_in values. Matrices whose rows differ in length only may share a stage: most_in is the longest.
    static Config config_for(const vk::Device& device, std::uint32_t n_in, std::uint32_t most_in, std::uint32_t n_out,
                             WeightType type, bool post_norm, const MatvecTuning& asked = {});
    MatvecAdd(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const MatvecPush& push) const;
    /// Shared memory, at most, of a stage that shares its activations.
    static std::uint64_t shared_bytes(std::uint32_t most_in, std::uint32_t n_out, bool post_norm);
    static std::uint64_t bytes_moved(const Config& config, std::uint32_t n_in);

private:
    std::uint32_t rows_per_group_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
