// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/vk/buffer.h"
#include "shaders/common/interface.h"

namespace winnow {

/// Consecutive rows of a matrix as one dispatch binds them. A matrix that exceeds maxStorageBufferRange has several.
struct MatrixRange {
    vk::BufferRange where;
    MatrixRef ref{};
    std::uint32_t first_row = 0;
};

/// The same rows of the gate and the up projection, which share a dispatch.
struct GateUpRange {
    vk::BufferRange where;
    MatrixRef gate{};
    MatrixRef up{};
    std::uint32_t first_row = 0;
};

/// Consecutive kv heads of the Q, K and V projections, which share a dispatch: their rows of K and V, and the rows of Q
/// of their groups.
struct QkvRange {
    vk::BufferRange where;
    MatrixRef q{}, k{}, v{};
    std::uint32_t first_kv_head = 0;
    std::uint32_t n_kv_heads = 0;
};

struct LayerWeights {
    std::vector<QkvRange> qkv;
    vk::BufferRange params;  ///< f32 [q_norm][k_norm] if qk_norm, then [bias of q, k, v] if qkv_bias; never empty
    std::vector<MatrixRange> output;
    std::vector<GateUpRange> gate_up;
    std::vector<MatrixRange> down;
    vk::BufferRange attn_norm, ffn_norm;            ///< f32 [n_embd]
    vk::BufferRange post_attn_norm, post_ffn_norm;  ///< f32 [n_embd]; any buffer when the model has none
    std::uint32_t rope_offset = 0;                  ///< first vec2 of the layer's table in `rope`
};

/// Every weight of a model on the device, repacked. Owns the buffers.
struct ModelWeights {
    std::vector<MatrixRange> table;   ///< token embeddings
    std::vector<MatrixRange> output;  ///< logits; may be the table itself
    vk::BufferRange output_norm;
    vk::BufferRange
        rope;  ///< vec2 cos, sin; per distinct layer table [256][n_rot/2] then [ceil(capacity/256)][n_rot/2]
    std::vector<LayerWeights> layers;
    std::vector<vk::Buffer> buffers;
    std::uint64_t bytes = 0;  ///< of all buffers
};

}  // namespace winnow
