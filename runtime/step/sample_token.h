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
        vk::BufferRange maxima;      ///< f32 [n_maxima], of disjoint groups of logits
        vk::BufferRange candidates;  ///< uvec2 [n_vocab + kMaxGroups]
        vk::BufferRange counts;      ///< u32 [kMaxGroups]
        vk::BufferRange counter;     ///< u32 [1], zero between steps
        vk::BufferRange ring;        ///< u32 [1 + WINNOW_TOKEN_RING]
    };
    static constexpr std::uint32_t kMaxGroups = 64;
    explicit SampleToken(vk::Device& device);
    void record(vk::Recorder& recorder, const Buffers& buffers, const SamplePush& push) const;
    static std::uint64_t bytes_moved(std::uint32_t n_vocab) { return n_vocab * 4ull; }

private:
    std::uint32_t n_groups_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
