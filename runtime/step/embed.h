// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Embedding row of the step's token: x and the first layer's quantised input. shaders/step/embed.comp
class Embed {
public:
    struct Config {
        std::uint32_t n_embd = 0;
        WeightType type = WeightType::kF32;
    };
    struct Buffers {
        vk::BufferRange table, state;
        vk::BufferRange x;        ///< f32 [n_embd]
        vk::BufferRange norm;     ///< f32 [n_embd], of the first layer
        vk::BufferRange act_out;  ///< quantised [n_embd]
    };
    Embed(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const EmbedPush& push) const;
    static std::uint64_t bytes_moved(const Config& config);

private:
    Config config_;
    std::uint32_t n_groups_ = 0;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
