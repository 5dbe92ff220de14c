// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/vk/buffer.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

namespace vk {
class Recorder;
}

/// Bytes of a quantised activation vector of n values (shaders/common/activations.glsl).
constexpr std::uint64_t activation_bytes(std::uint64_t n) { return n / 32 * 5 * 16; }

/// Bytes of the partial states of decode attention, [n_kv_heads][n_splits]([n_group][head_dim] outputs, then (m, d) of
/// each head, padded to 16 bytes). shaders/common/attend.glsl
constexpr std::uint64_t attend_partial_bytes(std::uint32_t n_heads, std::uint32_t n_kv_heads, std::uint32_t head_dim,
                                             std::uint32_t n_splits) {
    const std::uint64_t group = n_kv_heads == 0 ? 0 : n_heads / n_kv_heads;
    return std::uint64_t{n_kv_heads} * n_splits * (group * head_dim + (2 * group + 3) / 4 * 4) * 4;
}

/// What a decode step keeps besides weights and cache: the state, the activations of one token, the logits.
struct StepBuffers {
    /// @param n_splits most ranges that decode attention cuts the cache into.
    StepBuffers(vk::Device& device, const ModelShape& shape, std::uint32_t n_splits);

    vk::Buffer state;         ///< StepState
    vk::Buffer state_upload;  ///< StepState, host visible; copied to `state` before an answer
    vk::Buffer x;             ///< f32 [n_embd], the residual stream
    vk::Buffer act_embd;      ///< quantised [n_embd]
    vk::Buffer query;         ///< f32 [n_heads, head_dim]
    vk::Buffer attended;      ///< f32 [n_heads, head_dim]
    vk::Buffer act_attended;  ///< quantised [n_heads * head_dim]
    vk::Buffer act_ff;        ///< quantised [n_ff]
    vk::Buffer raw_product;   ///< f32 [n_embd]
    vk::Buffer partials;      ///< attend_partial_bytes()
    vk::Buffer counters;      ///< arrival counters, zero between steps
    vk::Buffer logits;        ///< f32 [n_vocab]
    vk::Buffer maxima;        ///< f32, largest logit of each group of the logits stage
    vk::Buffer candidates;    ///< uvec2 (id, logit bits)
    vk::Buffer counts;        ///< u32 per sampling group
    vk::Buffer ring;          ///< host visible: u32 tokens written, then WINNOW_TOKEN_RING tokens

    std::uint64_t bytes() const;
    /// What the constructor takes, without a device.
    static std::uint64_t bytes_needed(const ModelShape& shape, std::uint32_t n_splits);
};

/// Sampling options and stop conditions as the device holds them.
StepState make_step_state(const SamplingOptions& options, const std::vector<std::int32_t>& eog);

}  // namespace winnow
