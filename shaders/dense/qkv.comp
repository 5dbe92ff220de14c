#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: RMS norm (by the producer's squares), Q/K/V projections, bias, QK norm, RoPE; writes q and appends k, v.
// One workgroup handles: kRowsPerGroup rows of one head of the concatenation Q | K | V (a whole head when QK-normed),
// where Q, K and V are the rows of kRangeKvHeads kv heads and their groups, from kFirstKvHead on.
// Pairs that RoPE rotates together are neighbours in the group's order, whatever the pairing in memory.
// Bindings: 0 weights; 1 activations [n_embd]; 2 state; 3 rope vec2 [256][n_rot/2] low, then [..][n_rot/2] high digits;
//   4 block table; 5 params f32: [q_norm head_dim][k_norm head_dim] if kQkNorm, then [bias of all rows] if kBias;
//   6 q f32 [n_heads, head_dim]; 7 K pool; 8 V pool; 9, 10, 11 block summaries (shaders/common/summary.glsl)
// Needs: storage16, subgroup arithmetic, integer dot product.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kHeadDim = 64;
layout(constant_id = 2) const uint kHeads = 9;
layout(constant_id = 3) const uint kKvHeads = 3;
layout(constant_id = 4) const uint kRot = 64;
layout(constant_id = 5) const uint kNeox = 0;
layout(constant_id = 6) const uint kQkNorm = 0;
layout(constant_id = 7) const uint kBias = 0;
layout(constant_id = 8) const uint kRowsPerGroup = 32;
layout(constant_id = 9) const uint kRowsPerPass = 1;
layout(constant_id = 10) const uint kBlocks = 18;  // n_embd / 32
layout(constant_id = 11) const uint kTypeQ = 3;
layout(constant_id = 12) const uint kTypeK = 3;
layout(constant_id = 13) const uint kTypeV = 3;
layout(constant_id = 14) const uint kBlockSize = 64;
layout(constant_id = 15) const uint kSummaryUnit = 0;  // tokens of a block summary; 0 = none are kept
layout(constant_id = 16) const uint kBlocksInFlight = 1;
layout(constant_id = 17) const uint kFirstKvHead = 0;
layout(constant_id = 18) const uint kRangeKvHeads = 3;
layout(constant_id = 19) const bool kShareAct = false;

const uint kFirstHead = kFirstKvHead * (kHeads / kKvHeads);
const uint kRangeHeads = kRangeKvHeads * (kHeads / kKvHeads);

// A row of the cache is quantised as a whole, so its group holds all of it.
const uint kKvRows = KV_TYPE == 2 || KV_TYPE == 8 ? kHeadDim : kRowsPerGroup;

#define W_BINDING 0
#define ACT_IN_BINDING 1
#define STATE_BINDING 2
#define TABLE_BINDING 4
#define MATVEC_MAX_BLOCKS kBlocks
#define MATVEC_MAX_ROWS (kRowsPerGroup > kKvRows ? kRowsPerGroup : kKvRows)
#include "shaders/common/interface.h"
#include "shaders/common/weights.glsl"
#include "shaders/common/activations.glsl"
#include "shaders/common/step_state.glsl"
#include "shaders/common/kv.glsl"
#include "shaders/common/matvec.glsl"
#if KV_TYPE == 2 || KV_TYPE == 8
shared float kv_row[kHeadDim];
#endif
#include "shaders/common/kv_store.glsl"
#include "shaders/common/kv_quantize.glsl"
#define SUMMARY_BINDING 9
#include "shaders/common/summary.glsl"

layout(push_constant, scalar) uniform Push { QkvPush push; };
layout(set = 0, binding = 3, scalar) restrict readonly buffer Rope { vec2 rope[]; };
layout(set = 0, binding = 5, scalar) restrict readonly buffer Params { float params[]; };
layout(set = 0, binding = 6, scalar) restrict writeonly buffer Query { float query[]; };
KV_POOL(key_pool, 7, restrict writeonly)
KV_POOL(value_pool, 8, restrict writeonly)

uint first_dim;  // virtual dimension of the group's first row inside its head
uint head_row;   // first row of the head in its own matrix, as the range has it
bool rotated;

// Dimension of a head that stands at virtual place j.
uint head_dimension(uint j) {
    return rotated && kNeox != 0 && j < kRot ? (j / 2) + (j % 2) * (kRot / 2) : j;
}

MatrixRef matrix;  // the one that the group's head belongs to
MatvecRow matvec_row(uint r) { return matvec_row_of(matrix, kBlocks, head_row + head_dimension(first_dim + r)); }

// Low and high digits of the angle of a pair of the group: vec4(cos, sin, cos, sin).
vec4 load_rope(uint position, uint pair) {
    const uint half_rot = kRot / 2;
    const uint at = push.rope_offset + (first_dim + 2 * pair) / 2;
    return vec4(rope[at + (position & 255) * half_rot], rope[at + (256 + (position >> 8)) * half_rot]);
}

void main() {
    const uint n_q_groups = kRangeHeads * kHeadDim / kRowsPerGroup;
    const bool is_q = gl_WorkGroupID.x < n_q_groups;
    const uint n_rows = is_q ? kRowsPerGroup : kKvRows;
    const uint virtual_row =
        is_q ? gl_WorkGroupID.x * kRowsPerGroup : kRangeHeads * kHeadDim + (gl_WorkGroupID.x - n_q_groups) * kKvRows;
    const uint head = virtual_row / kHeadDim;
    first_dim = virtual_row % kHeadDim;
    const bool is_k = !is_q && head < kRangeHeads + kRangeKvHeads;
    rotated = is_q || is_k;
    const uint range_head = is_q ? head : (is_k ? head - kRangeHeads : head - kRangeHeads - kRangeKvHeads);
    head_row = range_head * kHeadDim;
    const uint kv_head = kFirstKvHead + range_head;  // K and V only

    if (is_q) matrix = push.q;
    else if (is_k) matrix = push.k;
    else matrix = push.v;
    const bool one_type = kTypeQ == kTypeK && kTypeK == kTypeV;
    if (one_type || is_q) matvec_begin(kTypeQ, kBlocks, 0, n_rows);
    else if (is_k) matvec_begin(kTypeK, kBlocks, 0, n_rows);
    else matvec_begin(kTypeV, kBlocks, 0, n_rows);
    // What the epilogue needs is on its way while the rows are read.
    const uint position = state.position;
    uint block = 0;
    if (!is_q) block = physical_block(head_table(push.table_offset, push.table_stride, kv_head), position / kBlockSize);
    const bool rotates = rotated && first_dim + 2 * gl_LocalInvocationIndex < kRot && 2 * gl_LocalInvocationIndex < n_rows;
    vec4 angle = rotates ? load_rope(position, gl_LocalInvocationIndex) : vec4(0.0);
    if (state.stopped != 0) return;
    matvec_share_act(kBlocks);

    float squares;
    if (one_type || is_q) squares = matvec_rows(kTypeQ, kBlocks, 0, n_rows);
    else if (is_k) squares = matvec_rows(kTypeK, kBlocks, 0, n_rows);
    else squares = matvec_rows(kTypeV, kBlocks, 0, n_rows);
    const float inverse_rms = inversesqrt(squares / float(kBlocks * 32) + push.eps);
    barrier();

    float norm = 1.0;
    if (kQkNorm != 0 && rotated) {
        float sum = 0.0;
        for (uint r = gl_SubgroupInvocationID; r < kHeadDim; r += gl_SubgroupSize) {
            const float y = row_values[r] * inverse_rms;
            sum += y * y;
        }
        norm = inversesqrt(subgroupAdd(sum) / float(kHeadDim) + push.eps);
    }

    for (uint pair = gl_LocalInvocationIndex; pair < n_rows / 2; pair += gl_WorkGroupSize.x) {
        const uint j = first_dim + 2 * pair;
        const uvec2 dims = uvec2(head_dimension(j), head_dimension(j + 1));
        vec2 y = vec2(row_values[2 * pair], row_values[2 * pair + 1]) * inverse_rms;
        if (kBias != 0) {
            // Heads before this one that the range lacks.
            const uint before_k = kFirstKvHead + kHeads - kRangeHeads;
            const uint n_before = is_q ? kFirstHead : (is_k ? before_k : before_k + kKvHeads - kRangeKvHeads);
            const uint bias = (kQkNorm != 0 ? 2 * kHeadDim : 0) + (n_before + head) * kHeadDim;
            y += vec2(params[bias + dims.x], params[bias + dims.y]);
        }
        if (kQkNorm != 0 && rotated) {
            const uint weight = is_q ? 0 : kHeadDim;
            y *= norm * vec2(params[weight + dims.x], params[weight + dims.y]);
        }
        if (rotated && j < kRot) {
            if (pair != gl_LocalInvocationIndex) angle = load_rope(position, pair);
            const float c = angle.z * angle.x - angle.w * angle.y;
            const float s = angle.w * angle.x + angle.z * angle.y;
            y = vec2(y.x * c - y.y * s, y.x * s + y.y * c);
        }
        if (is_q) {
            query[kFirstHead * kHeadDim + head_row + dims.x] = y.x * push.scale;
            query[kFirstHead * kHeadDim + head_row + dims.y] = y.y * push.scale;
        } else {
#if KV_QUANTIZED
            kv_row[dims.x] = y.x;
            kv_row[dims.y] = y.y;
#else
            const uint row = block * kBlockSize + position % kBlockSize;
            if (is_k) {
                KV_STORE(key_pool, row, dims.x, y.x);
                KV_STORE(key_pool, row, dims.y, y.y);
                if (kSummaryUnit != 0) {
                    summarize(block, kv_head, position, dims.x, round_summary(y.x), push.super_first, push.super_stride);
                    summarize(block, kv_head, position, dims.y, round_summary(y.y), push.super_first, push.super_stride);
                }
            } else {
                KV_STORE(value_pool, row, dims.x, y.x);
                KV_STORE(value_pool, row, dims.y, y.y);
            }
#endif
        }
    }
#if KV_QUANTIZED
    if (is_q) return;
    barrier();
    const uint row = block * kBlockSize + position % kBlockSize;
    if (!is_k) {
        KV_STORE_ROW(value_pool, row, 0, gl_LocalInvocationIndex, gl_WorkGroupSize.x)
        return;
    }
    KV_STORE_ROW(key_pool, row, 0, gl_LocalInvocationIndex, gl_WorkGroupSize.x)
    if (kSummaryUnit == 0) return;
    barrier();
    for (uint dim = gl_LocalInvocationIndex; dim < kHeadDim; dim += gl_WorkGroupSize.x)
        summarize(block, kv_head, position, dim, kv_row[dim], push.super_first, push.super_stride);
#endif
}
