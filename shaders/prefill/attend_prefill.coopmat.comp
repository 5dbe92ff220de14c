#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: causal attention of a chunk's queries over the cache, as attend_prefill.comp, by cooperative matrices (the
// tiles of FlashAttention-2, Dao 2023): f16 inputs (quantised values as halves) and probabilities, f32 scores, sums and softmax state.
// One group handles: kRowTiles x kM (query, head) pairs of one kv head, over all keys they see; a tile of keys and
// values is read once for all of them while the next one is on its way into registers. kParts subgroups share kM rows:
// each has a part of a tile's keys for the scores and a part of the dimensions for the sums.
// How a matrix lies in its invocations is unknown, so scores pass through shared memory, where lanes own rows. The sums
// are rescaled only when a row's maximum outgrew its reference by kSlack.
// Bindings: 0 block table; 1 K pool; 2 V pool; 3 q f16 [n_tokens, n_heads, head_dim], scaled;
//   4 output f16 [n_tokens, n_heads, head_dim]
// Needs: storage16, f16 arithmetic, cooperative matrix, subgroup arithmetic and shuffle.
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroupSize = 32;
layout(constant_id = 2) const uint kM = 16;  // shape of a matrix
layout(constant_id = 3) const uint kN = 16;
layout(constant_id = 4) const uint kK = 16;
layout(constant_id = 5) const uint kHeadDim = 128;
layout(constant_id = 6) const uint kGroup = 4;
layout(constant_id = 7) const uint kKvHeads = 8;
layout(constant_id = 8) const uint kRowTiles = 8;
layout(constant_id = 9) const uint kParts = 1;
layout(constant_id = 10) const uint kKeys = 32;  // of a tile; divides the block
layout(constant_id = 11) const uint kBlockSize = 64;

#define TABLE_BINDING 0
#include "shaders/common/interface.h"
#include "shaders/common/kv.glsl"
#include "shaders/common/kv_store.glsl"
#include "shaders/common/words.glsl"
#include "shaders/common/kv_tile.glsl"
#include "shaders/common/half_weights.glsl"

layout(push_constant, scalar) uniform Push { AttendPrefillPush push; };
READ_WORDS(key_pool, 1, restrict readonly)
READ_WORDS(value_pool, 2, restrict readonly)
layout(set = 0, binding = 3, scalar) restrict readonly buffer Query { uvec4 query[]; };
layout(set = 0, binding = 4, scalar) restrict writeonly buffer Output { uvec4 attended[]; };

const uint kThreads = kRowTiles * kParts * kSubgroupSize;
const uint kRowQuads = kHeadDim / 8;         // of 8 halves
const uint kStride = kRowQuads | 1;          // odd: neighbouring rows start in different banks
const uint kScoreStride = kKeys / 4 + 1;     // quads: a row of f32 scores, and in its place of f16 probabilities
const uint kUnits = kHeadDim / kUnitDims;    // of a row in the cache
const uint kLoads = (kKeys * kUnits + kThreads - 1) / kThreads;
const uint kTilesPerBlock = kBlockSize / kKeys;
const uint kKeyParts = kKeys / kParts / kN;  // matrices of scores of a subgroup
const uint kDims = kHeadDim / kParts;        // of a subgroup's sums
const uint kDimParts = kDims / kN;
const uint kLanes = kSubgroupSize * kParts / kM;  // that share a row's softmax
const uint kLaneKeys = kKeys / kLanes;            // a multiple of 8
const float kEmpty = -3.0e38;

shared uvec4 key_tile[kKeys * kStride];
shared uvec4 value_tile[kKeys * kStride];
shared uvec4 scores[kRowTiles * kM * kScoreStride];
shared float factors[kRowTiles * kM];
shared float row_of[kM * kN];  // the row of each element

TileUnit key_raw[kLoads];
TileUnit value_raw[kLoads];

void fetch(uint first_row) {
    [[unroll]] for (uint i = 0; i < kLoads; ++i) {
        const uint unit = min(i * kThreads + gl_LocalInvocationIndex, kKeys * kUnits - 1);
        const uint row = first_row + unit / kUnits;
        TILE_FETCH(key_pool, row, unit % kUnits, key_raw[i])
        TILE_FETCH(value_pool, row, unit % kUnits, value_raw[i])
    }
}

// Values beyond the newest token may be anything, and a probability of zero would not silence them.
void store(uint n_valid) {
    [[unroll]] for (uint i = 0; i < kLoads; ++i) {
        const uint unit = i * kThreads + gl_LocalInvocationIndex;
        if (unit < kKeys * kUnits) {
            const uint key = unit / kUnits;
            [[unroll]] for (uint part = 0; part < kUnitDims / 8; ++part) {
                const uint at = key * kStride + unit % kUnits * (kUnitDims / 8) + part;
                key_tile[at] = tile_quad(key_raw[i], part);
                value_tile[at] = key < n_valid ? tile_quad(value_raw[i], part) : uvec4(0);
            }
        }
    }
}

void subgroup_sync() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

// Among the subgroups that share rows.
void rows_sync() {
    if (kParts > 1) barrier();
    else subgroup_sync();
}

void main() {
    const uint lane = gl_SubgroupInvocationID;
    const uint kv_head = gl_WorkGroupID.y;
    const uint n_items = push.n_tokens * kGroup;
    // Later queries see more keys: they go first.
    const uint first_item = (gl_NumWorkGroups.x - 1 - gl_WorkGroupID.x) * kRowTiles * kM;
    const HeadTable table = head_table(push.table_offset, push.table_stride, kv_head);
    const uint row_tile = gl_SubgroupID / kParts;
    const uint part = gl_SubgroupID % kParts;
    const uint rows_at = row_tile * kM * kScoreStride;      // scores of this row tile
    const uint scratch = rows_at + part * (kM * kN / 4);    // room in it for one matrix of this subgroup

    for (uint i = gl_LocalInvocationIndex; i < kM * kN; i += kThreads) row_of[i] = float(i / kN);

    coopmat<float16_t, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> q[kHeadDim / kK];
    [[unroll]] for (uint k = 0; k < kHeadDim / kK; ++k) {
        for (uint unit = lane; unit < kM * kK / 8; unit += kSubgroupSize) {
            const uint item = min(first_item + row_tile * kM + unit / (kK / 8), n_items - 1);
            const uint row = ((item / kGroup) * kKvHeads + kv_head) * kGroup + item % kGroup;
            scores[scratch + unit] = query[row * kRowQuads + k * (kK / 8) + unit % (kK / 8)];
        }
        subgroup_sync();
        coopMatLoad(q[k], scores, scratch, kK / 8, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_sync();
    }
    coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> o[kDimParts];
    [[unroll]] for (uint n = 0; n < kDimParts; ++n)
        o[n] = coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>(0.0);

    // This lane's row, its keys of a tile, and its softmax state: reference in powers of two, sum of its keys.
    const uint row = part * (kM / kParts) + lane / kLanes;
    const uint first_key = lane % kLanes * kLaneKeys;
    const uint position = push.position + min(first_item + row_tile * kM + row, n_items - 1) / kGroup;
    float reference = kEmpty;
    float sum = 0.0;

    const uint first_position = push.position + first_item / kGroup;
    const uint last_position = push.position + min(first_item + kRowTiles * kM - 1, n_items - 1) / kGroup;
    VisibleBlocks blocks = visible_blocks(table, first_position);
    blocks.n = blocks.n_first + last_position / kBlockSize + 1 - blocks.window_from;
    const uint n_tiles = (blocks.n - 1) * kTilesPerBlock + last_position % kBlockSize / kKeys + 1;

    fetch(physical_block(table, visible_block(blocks, 0)) * kBlockSize);
    uint second = min(1, n_tiles - 1);
    uint next_row = physical_block(table, visible_block(blocks, second / kTilesPerBlock)) * kBlockSize + second % kTilesPerBlock * kKeys;
    for (uint tile = 0; tile < n_tiles; ++tile) {
        const uint first_token = visible_block(blocks, tile / kTilesPerBlock) * kBlockSize + tile % kTilesPerBlock * kKeys;
        store(min(last_position + 1 - first_token, kKeys));
        barrier();
        fetch(next_row);
        const uint third = min(tile + 2, n_tiles - 1);
        next_row = physical_block(table, visible_block(blocks, third / kTilesPerBlock)) * kBlockSize + third % kTilesPerBlock * kKeys;

        // Scores of this subgroup's keys.
        coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> s[kKeyParts];
        [[unroll]] for (uint n = 0; n < kKeyParts; ++n)
            s[n] = coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>(0.0);
        [[unroll]] for (uint k = 0; k < kHeadDim / kK; ++k) {
            [[unroll]] for (uint n = 0; n < kKeyParts; ++n) {
                coopmat<float16_t, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> b;
                coopMatLoad(b, key_tile, (part * kKeyParts + n) * kN * kStride + k * (kK / 8), kStride,
                            gl_CooperativeMatrixLayoutColumnMajor);
                s[n] = coopMatMulAdd(q[k], b, s[n]);
            }
        }
        [[unroll]] for (uint n = 0; n < kKeyParts; ++n)
            coopMatStore(s[n], scores, rows_at + (part * kKeyParts + n) * (kN / 4), kScoreStride,
                         gl_CooperativeMatrixLayoutRowMajor);
        rows_sync();

        // Probabilities of this lane's row and keys.
        vec4 p[kLaneKeys / 4];
        [[unroll]] for (uint i = 0; i < kLaneKeys / 4; ++i)
            p[i] = uintBitsToFloat(scores[rows_at + row * kScoreStride + first_key / 4 + i]);
        const bool all_visible =
            first_token + kKeys <= first_position + 1 && (table.window == 0 || first_token + table.window > last_position);
        if (!all_visible) {
            [[unroll]] for (uint i = 0; i < kLaneKeys; ++i)
                if (!is_visible(table, position, first_token + first_key + i)) p[i / 4][i % 4] = kEmpty;
        }
        float largest = kEmpty;
        [[unroll]] for (uint i = 0; i < kLaneKeys / 4; ++i)
            largest = max(largest, max(max(p[i].x, p[i].y), max(p[i].z, p[i].w)));
        [[unroll]] for (uint other = 1; other < kLanes; other *= 2) largest = max(largest, subgroupShuffleXor(largest, other));
        largest *= kLog2E;
        float factor = 1.0;
        if (largest > reference + kSlack) {
            factor = exp2(reference - largest);
            reference = largest;
            sum *= factor;
        }
        [[unroll]] for (uint i = 0; i < kLaneKeys / 4; ++i) {
            p[i] = exp2(fma(p[i], vec4(kLog2E), vec4(kBias - reference)));
            sum += (p[i].x + p[i].y) + (p[i].z + p[i].w);
        }
        rows_sync();
        [[unroll]] for (uint i = 0; i < kLaneKeys / 8; ++i)
            scores[rows_at + row * kScoreStride + first_key / 8 + i] =
                uvec4(packHalf2x16(p[2 * i].xy), packHalf2x16(p[2 * i].zw), packHalf2x16(p[2 * i + 1].xy), packHalf2x16(p[2 * i + 1].zw));
        if (lane % kLanes == 0) factors[row_tile * kM + row] = factor;
        rows_sync();

        if (subgroupMin(factors[row_tile * kM + lane % kM]) < 1.0) {
            coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> scale;
            coopMatLoad(scale, row_of, 0, kN, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint i = 0; i < scale.length(); ++i) scale[i] = factors[row_tile * kM + uint(scale[i])];
            [[unroll]] for (uint n = 0; n < kDimParts; ++n) o[n] = o[n] * scale;
        }
        [[unroll]] for (uint k = 0; k < kKeys / kK; ++k) {
            coopmat<float16_t, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> a;
            coopMatLoad(a, scores, rows_at + k * (kK / 8), kScoreStride, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint n = 0; n < kDimParts; ++n) {
                coopmat<float16_t, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> b;
                coopMatLoad(b, value_tile, k * kK * kStride + (part * kDims + n * kN) / 8, kStride,
                            gl_CooperativeMatrixLayoutRowMajor);
                o[n] = coopMatMulAdd(a, b, o[n]);
            }
        }
        barrier();
    }

    [[unroll]] for (uint other = 1; other < kLanes; other *= 2) sum += subgroupShuffleXor(sum, other);
    if (lane % kLanes == 0) factors[row_tile * kM + row] = 1.0 / sum;
    rows_sync();
    [[unroll]] for (uint n = 0; n < kDimParts; ++n) {
        coopMatStore(o[n], scores, scratch, kN / 4, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_sync();
        for (uint unit = lane; unit < kM * kN / 8; unit += kSubgroupSize) {
            const uint x = unit / (kN / 8);
            const uint item = first_item + row_tile * kM + x;
            const float inverse = factors[row_tile * kM + x];
            const vec4 a = uintBitsToFloat(scores[scratch + 2 * unit]) * inverse;
            const vec4 b = uintBitsToFloat(scores[scratch + 2 * unit + 1]) * inverse;
            const uint out_row = ((item / kGroup) * kKvHeads + kv_head) * kGroup + item % kGroup;
            if (item < n_items)
                attended[out_row * kRowQuads + (part * kDims + n * kN) / 8 + unit % (kN / 8)] =
                    uvec4(packHalf2x16(a.xy), packHalf2x16(a.zw), packHalf2x16(b.xy), packHalf2x16(b.zw));
        }
        subgroup_sync();
    }
}
