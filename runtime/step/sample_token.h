// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"

namespace winnow {

/// Draws the next token, appends it to the ring, advances the state. shaders/step/sample_token.comp
class SampleToken {
public:
    struct Buffers {
        vk::BufferRange state;
        vk::BufferRange logits;      ///< f32 [n_vocab]
        vk::BufferRange threshold;   ///< f32 [1]
        vk::BufferRange candidates;  ///< uvec2 [n_vocab + kGroups]
        vk::BufferRange counts;      ///< u32 [kGroups]
        vk::BufferRange counter;     ///< u32 [1], zero between steps
        vk::BufferRange ring;        ///< u32 [1 + WINNOW_TOKEN_RING]
    };
    static constexpr std::uint32_t kGroups = 64;
    explicit SampleToken(vk::Device& device);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SamplePush& push) const;
    static std::uint64_t bytes_moved(std::uint32_t n_vocab) { return n_vocab * 4ull; }

private:
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
