// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/matvec_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Logits over the vocabulary and their maxima per group of rows. shaders/dense/logits.comp
class Logits {
public:
    struct Config {
        std::uint32_t n_embd = 0, n_vocab = 0;
        WeightType type = WeightType::kF32;
        MatvecTuning tuning{};  ///< empty = the table's
    };
    struct Buffers {
        vk::BufferRange weights, act_in, state;
        vk::BufferRange logits;  ///< f32 [n_vocab]
        vk::BufferRange maxima;  ///< f32 [n_maxima(...)]
    };
    Logits(vk::Device& device, const Config& config);
    /// A row range must start at a multiple of rows_per_group().
    void record(vk::Recorder& recorder, const Buffers& buffers, const MatvecPush& push) const;
    std::uint32_t rows_per_group() const { return rows_per_group_; }
    std::uint32_t n_maxima() const { return n_maxima_; }
    static std::uint64_t bytes_moved(const Config& config);

private:
    std::uint32_t rows_per_group_ = 0;
    std::uint32_t n_maxima_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
