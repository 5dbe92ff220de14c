// SPDX-License-Identifier: Apache-2.0
// Scores of boxes (Quest: the largest score that a key between a unit's minimum and maximum can have) for select_attend
// where it scores its rows itself (score_shares.glsl), so that a selecting layer has no dispatch more than a dense one.
//
// By matrix units a bound is two products, of the query's positive part and the maxima and of its negative part and the
// minima: a box is read like a key of twice as many dimensions (attend_matrices.glsl).
#ifndef WINNOW_SCORE_BOXES_GLSL
#define WINNOW_SCORE_BOXES_GLSL
#include "shaders/common/score_shares.glsl"

layout(set = 0, binding = BOX_LOW_BINDING, scalar) restrict readonly buffer BoxLow { uvec4 box_low_quads[]; };
layout(set = 0, binding = BOX_HIGH_BINDING, scalar) restrict readonly buffer BoxHigh { uvec4 box_high_quads[]; };

const uint kUnitsPerBlock = kBlockSize / (kUnit < kBlockSize ? kUnit : kBlockSize);
// Block table entry of a row of the list, known without the position, since only a head without a window asks.
uint box_block(uint row) {
    const uint block = min((push.sink_tokens / kUnit + row) / kUnitsPerBlock, push.table_stride - WINNOW_TABLE_HEADER - 1);
    return block_table[push.table_offset + kv_head * push.table_stride + WINNOW_TABLE_HEADER + block];
}
uint box_row(uint block, uint row) { return block * kUnitsPerBlock + (push.sink_tokens / kUnit + row) % kUnitsPerBlock; }

#ifdef WINNOW_MATRICES
const uint kBoxQuads = kUnitDims / 8;  // of a lane's unit, halves
const uint kRowQuads = kKeyUnits * kBoxQuads;
uvec4 box_low[2 * kRowQuads], box_high[2 * kRowQuads], token_quads[2 * kRowQuads];
uint blocks_ahead[2];
void fetch_blocks(uint tile) {
    [[unroll]] for (uint i = 0; i < 2; ++i) blocks_ahead[i] = box_block(tile * kTileTokens + 8 * i + lane_head());
}
void fetch_boxes(uint tile, uint n_rows) {
    [[unroll]] for (uint i = 0; i < 2; ++i) {
        const uint row = tile * kTileTokens + 8 * i + lane_head();
        const uint at = (row < n_rows ? box_row(blocks_ahead[i], row) : 0) * (kHeadDim / 8);
        [[unroll]] for (uint x = 0; x < kRowQuads; ++x) {
            const uint quad = at + (4 * (x / kBoxQuads) + lane_part()) * kBoxQuads + x % kBoxQuads;
            box_low[i * kRowQuads + x] = box_low_quads[quad];
            box_high[i * kRowQuads + x] = box_high_quads[quad];
        }
    }
}
void fetch_tokens(Share s, uint tile) {
    [[unroll]] for (uint i = 0; i < 2; ++i) {
        const uint row = sure_row(s, tile * kTileTokens + 8 * i + lane_head());
        [[unroll]] for (uint j = 0; j < kKeyUnits; ++j) {
            TileUnit unit;
            TILE_FETCH(key_pool, row, 4 * j + lane_part(), unit)
            [[unroll]] for (uint p = 0; p < kBoxQuads; ++p)
                token_quads[i * kRowQuads + j * kBoxQuads + p] = tile_quad(unit, p);
        }
    }
}
// All bits of the halves whose sign is set.
uint negative_halves(uint w) { return (w >> 15 & 0x10001u) * 0xffffu; }

#define PUT_BOX(matrix, quads, x)                                                             \
    {                                                                                         \
        const uvec4 row = tokens ? token_quads[x] : quads[x];                                 \
        const uvec4 other = tokens ? token_quads[kRowQuads + x] : quads[kRowQuads + x];       \
        const uvec2 first = half_pairs(row[w], row[w + 1]);                                   \
        const uvec2 second = half_pairs(other[w], other[w + 1]);                              \
        PUT_PAIR(matrix, 0, first.x)                                                          \
        PUT_PAIR(matrix, 2, first.y)                                                          \
        PUT_PAIR(matrix, 4, second.x)                                                         \
        PUT_PAIR(matrix, 6, second.y)                                                         \
    }
// Of this lane's head and rows value_token(0..3) of the tile that was sent for, of boxes or of tokens: boxes without
// inside.
vec4 box_scores(bool tokens) {
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> s =
        coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    [[unroll]] for (uint j = 0; j < kKeyUnits; ++j) {
        [[unroll]] for (uint h = 0; h < kUnitSteps; ++h) {
            const uvec4 q = query_parts[(j * kUnitSteps + h) * 32 + gl_SubgroupInvocationID];
            // A value and what its half lacks go together, by the sign of the value.
            const uvec4 negative = uvec4(negative_halves(q.x), negative_halves(q.y), negative_halves(q.x), negative_halves(q.y));
            const uvec4 up = q & ~negative, down = q & negative;
            const uint x = j * kBoxQuads + h / 2, w = h % 2 * 2;
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
            PUT_PAIRS(a, up)
            PUT_BOX(b, box_high, x)
            s = coopMatMulAdd(a, b, s);
            PUT_PAIRS(a, down)
            PUT_BOX(b, box_low, x)
            s = coopMatMulAdd(a, b, s);
        }
    }
    return vec4(s[0] + s[4], s[1] + s[5], s[2] + s[6], s[3] + s[7]) * (1.0 / kLog2E);
}

uint first_tile(bool own, uint share) { return (own ? 0 : share * kSubgroups) + gl_SubgroupID; }
void fetch_first_rows(uint share) { fetch_blocks(first_tile(kMaxRows <= kOwnRows, share)); }

void score_share(Share s) {
    const uint stride = s.own ? kSubgroups : kMaxSplits * kSubgroups;
    const uint first = first_tile(s.own, s.share);
    const uint n_box_tiles = (s.n_rows + kTileTokens - 1) / kTileTokens;
    const uint n_sure_tiles = (s.n_sure + kTileTokens - 1) / kTileTokens;
    vec2 md[kStates];
    [[unroll]] for (uint i = 0; i < kStates; ++i) md[i] = vec2(kEmpty, 0.0);
    uint box_tile = first, sure_tile = first;
    bool has_boxes = false, has_tokens = false;
    while (true) {
        // Both are sent for before one is used: a share has at most one tile of each in common cases.
        if (!has_boxes && box_tile < n_box_tiles) {
            const bool other = kMaxRows > kOwnRows && (s.own || s.share != gl_WorkGroupID.x);
            if (other || box_tile != first) fetch_blocks(box_tile);
            fetch_boxes(box_tile, s.n_rows);
            has_boxes = true;
        }
        if (!has_tokens && sure_tile < n_sure_tiles) {
            fetch_tokens(s, sure_tile);
            has_tokens = true;
        }
        if (!has_boxes && !has_tokens) break;
        const bool sure = has_tokens;
        const uint at = (sure ? sure_tile : box_tile) * kTileTokens;
        const vec4 score = box_scores(sure);
        vec4 n;
        [[unroll]] for (uint t = 0; t < 4; ++t) {
            const uint row = at + value_token(t);
            n[t] = row >= (sure ? s.n_sure : s.n_rows) ? 0.0 : sure ? 1.0 : float(row_tokens(row));
        }
        if (!sure && lane_head() < kGroup) {
            const uint row = at + 2 * lane_part();
            if (s.own) {
                own_pairs[(lane_head() * kOwnRows + row) / 2] = score.xy;
                own_pairs[(lane_head() * kOwnRows + row) / 2 + 4] = score.zw;
            } else {
                const uint pair = ((kv_head * kGroup + lane_head()) * kMaxRows + row) / 2;
                score_pairs[pair] = score.xy;
                score_pairs[pair + 4] = score.zw;
            }
        }
        const vec4 x = mix(vec4(kEmpty), score, greaterThan(n, vec4(0.0)));
        const float m = max(max(x.x, x.y), max(x.z, x.w));
        vec2 both = kStates == 2 && sure ? md[kStates - 1] : md[0];
        merge_state(both, vec2(m, dot(n, exp(x - m))));
        if (kStates == 2 && sure) md[kStates - 1] = both;
        else md[0] = both;
        if (sure) {
            has_tokens = false;
            sure_tile += stride;
        } else {
            has_boxes = false;
            box_tile += stride;
        }
    }
    [[unroll]] for (uint i = 0; i < kStates; ++i) {
        merge_state(md[i], subgroupShuffleXor(md[i], 1));
        merge_state(md[i], subgroupShuffleXor(md[i], 2));
        if (lane_part() == 0 && lane_head() < kGroup) share_md[(gl_SubgroupID * kStates + i) * kGroup + lane_head()] = md[i];
    }
}
#else
void fetch_first_rows(uint share) {}

// Dimensions 8 * unit .. of a box.
void load_box(uint row, uint unit, out vec4 low[2], out vec4 high[2]) {
    const uint at = row * kUnits + unit;
#if KV_TYPE == WINNOW_KV_F32
    [[unroll]] for (uint i = 0; i < 2; ++i) {
        low[i] = uintBitsToFloat(box_low_quads[2 * at + i]);
        high[i] = uintBitsToFloat(box_high_quads[2 * at + i]);
    }
#else
    const uvec4 a = box_low_quads[at], b = box_high_quads[at];
    [[unroll]] for (uint i = 0; i < 2; ++i) {
        low[i] = vec4(unpackHalf2x16(a[2 * i]), unpackHalf2x16(a[2 * i + 1]));
        high[i] = vec4(unpackHalf2x16(b[2 * i]), unpackHalf2x16(b[2 * i + 1]));
    }
#endif
}

// A row to kLanes lanes, as attention has tokens.
void score_share(Share s) {
    const uint first = s.own ? 0 : s.share * kSlots, stride = s.own ? kSlots : kMaxSplits * kSlots;
    vec2 md[kStates * kGroup];
    [[unroll]] for (uint i = 0; i < kStates * kGroup; ++i) md[i] = vec2(kEmpty, 0.0);
    [[unroll]] for (uint sure = 0; sure < 2; ++sure) {
        const uint n_all = sure == 0 ? s.n_rows : s.n_sure;
        for (uint base = first; base < n_all; base += stride) {
            const uint i = base + attend_slot();
            const uint own = min(i, n_all - 1);
            const uint row = sure == 0 ? box_row(box_block(own), own) : sure_row(s, own);
            float score[kGroup];
            [[unroll]] for (uint g = 0; g < kGroup; ++g) score[g] = 0.0;
            for (uint u = 0; u < kUnitsPerLane; ++u) {
                const uint unit = min(share_lane() + u * kLanes, kUnits - 1);  // beyond the row the query is zero
                vec4 low[2], high[2];
                if (sure == 0) load_box(row, unit, low, high);
                else KV_LOAD(key_pool, row, unit, low[0], low[1])
                [[unroll]] for (uint g = 0; g < kGroup; ++g) {
                    [[unroll]] for (uint e = 0; e < 2; ++e) {
                        const vec4 q = attend_q[g * kQuadsPerLane + 2 * u + e];
                        score[g] += dot(q, sure == 0 ? mix(low[e], high[e], greaterThan(q, vec4(0.0))) : low[e]);
                    }
                }
            }
            const float n = sure == 0 ? float(row_tokens(own)) : 1.0;
            [[unroll]] for (uint g = 0; g < kGroup; ++g) {
                for (uint d = 1; d < kLanes; d <<= 1) score[g] += subgroupShuffleXor(score[g], d);
                if (i < n_all) {
                    merge_state(md[(kStates == 2 ? sure : 0) * kGroup + g], vec2(score[g], n));
                    if (sure == 0 && share_lane() == 0) {
                        if (s.own) own_pairs[(g * kOwnRows + i) / 2][i % 2] = score[g];
                        else score_pairs[((kv_head * kGroup + g) * kMaxRows + i) / 2][i % 2] = score[g];
                    }
                }
            }
        }
    }
    [[unroll]] for (uint i = 0; i < kStates * kGroup; ++i) {
        for (uint d = kLanes; d < kSubgroupLanes; d <<= 1) merge_state(md[i], subgroupShuffleXor(md[i], d));
        if (gl_SubgroupInvocationID == 0) share_md[gl_SubgroupID * kStates * kGroup + i] = md[i];
    }
}
#endif

#endif
