// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "runtime/weights/matvec_tuning.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// act(Wg a) * (Wu a) of the gated MLP, quantised. shaders/dense/gate_up.comp
class GateUp {
public:
    struct Config {
        std::uint32_t n_embd = 0, n_ff = 0;
        WeightType type_gate = WeightType::kF32, type_up = WeightType::kF32;
        Activation activation = Activation::kSilu;
        MatvecTuning tuning{};  ///< empty = the table's
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange weights, act_in, state;
        vk::BufferRange act_out;  ///< quantised [n_ff]
    };
    GateUp(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const GateUpPush& push) const;
    static std::uint64_t bytes_moved(const Config& config);

private:
    std::uint32_t rows_per_group_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
