// SPDX-License-Identifier: Apache-2.0
// The part of attend.glsl that attends, by cooperative matrices (FlashAttention-2, Dao 2023, with the query heads of one
// kv head as rows): a subgroup takes tiles of 16 tokens. Plain units need a multiply-add for each head and dimension and
// are the limit from four heads on; matrix units leave memory as the limit.
// Keys and values go from memory straight into the matrices, and probabilities from one matrix into the next, without
// shared memory: this is for devices whose matrices lie in a subgroup as matrix_layout.h says, which the host asks. Lane
// 4 g + t holds rows (or columns) g and g + 8, and of what is summed over 2t, 2t + 1, 2t + 8 and 2t + 9. What is summed
// over may come in any order, as long as both factors have the same: so a lane's dimensions of a key are eight
// neighbours, a load, and its dimensions of a value too, for the four tokens whose probabilities it has.
// Matrices take halves, so a query is two rows, g its value as a half and g + 8 what that lacks, and so are
// probabilities: 22 bits, of small ones as many as stand above 2^-24, and a lane has both. Sums are rescaled only when
// a head's maximum outgrew its reference by kSlack.
#ifndef WINNOW_ATTEND_MATRICES_GLSL
#define WINNOW_ATTEND_MATRICES_GLSL
#include "shaders/common/half_weights.glsl"

const uint kTileTokens = 16;
const uint kTiles = kTokensInFlight / kTileTokens;  // of a subgroup's turn, one or two, under way together
const uint kUnitSteps = kUnitDims / 4;              // of a score: in each a lane has four dimensions of a key
const uint kUnitPairs = kUnitDims / 2;
const uint kKeyUnits = kHeadDim / (4 * kUnitDims);  // of a token that a lane has
const uint kValueUnits = kHeadDim / (8 * kUnitDims);
const uint kSums = kHeadDim / 16;                   // matrices
const bool kAhead = kHeadDim <= 128;                // registers hold the next keys beside the values
const uint kQueryItems = kHeadDim / 16 * 32;
const uint kQueryLoads = (kQueryItems + kGroupSize - 1) / kGroupSize;

shared uvec4 query_parts[kQueryItems];  // [step][lane], as a matrix has them

uint attend_kv_head;
vec4 query_raw[kQueryLoads];
coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> attend_o[kSums];
float reference;  // in powers of two, of this lane's head
float own_sum;    // of its tokens

uint lane_head() { return gl_SubgroupInvocationID / 4; }
uint lane_part() { return gl_SubgroupInvocationID % 4; }

void attend_init(uint kv_head) {
    attend_kv_head = kv_head;
    [[unroll]] for (uint l = 0; l < kQueryLoads; ++l) {
        const uint item = min(l * kGroupSize + gl_LocalInvocationIndex, kQueryItems - 1);
        const uint step = item / 32, head = min(item % 32 / 4, kGroup - 1);
        const uint unit = step / kUnitSteps * 4 + item % 4;
        query_raw[l] = query[(kv_head * kGroup + head) * kHeadQuads + unit * kUnitSteps + step % kUnitSteps];
    }
    [[unroll]] for (uint x = 0; x < kSums; ++x)
        attend_o[x] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    reference = kEmpty;
    own_sum = 0.0;
}

// The state of the first subgroup of split 0 begins with the mean of the n tokens of `sum_row` in place of nothing.
void attend_evicted(uint split, uint sum_row, uint n) {
    if (!kEvicted || split != 0 || n == 0 || gl_SubgroupID != 0) return;
    const float inverse = 1.0 / float(n);
    const uint key_at = sum_row * 2 * kHeadDim, value_at = key_at + kHeadDim;
    const uint query_at = (attend_kv_head * kGroup + min(lane_head(), kGroup - 1)) * kHeadQuads;
    float score = 0.0;
    for (uint q = lane_part(); q < kHeadQuads; q += 4)
        score += dot(query[query_at + q], evicted_mean(key_at + 4 * q, inverse));
    score += subgroupShuffleXor(score, 1);
    score += subgroupShuffleXor(score, 2);
    reference = (score + log(float(n))) * kLog2E;
    own_sum = lane_part() == 0 ? exp2(kBias) : 0.0;
    // As attend_merge_workgroup() takes them apart.
    [[unroll]] for (uint v = 0; v < kValueUnits; ++v) {
        const uint dim = (8 * v + 2 * lane_part()) * kUnitDims;
        [[unroll]] for (uint q = 0; q < 2 * kUnitSteps; ++q) {
            const uint x = kUnitPairs * v + q % kUnitSteps * 2, e = q / kUnitSteps;
            const vec4 mean = evicted_mean(value_at + dim + 4 * q, inverse) * exp2(kBias);
            attend_o[x][e] = first_pair(mean).x;
            attend_o[x][2 + e] = first_pair(mean).y;
            attend_o[x + 1][e] = second_pair(mean).x;
            attend_o[x + 1][2 + e] = second_pair(mean).y;
        }
    }
}

void put_queries() {
    [[unroll]] for (uint l = 0; l < kQueryLoads; ++l) {
        const uint item = l * kGroupSize + gl_LocalInvocationIndex;
        // What a half cannot hold makes one token take everything, whatever it is exactly.
        const vec4 q = item % 32 / 4 < kGroup ? clamp(query_raw[l] * kLog2E, -65504.0, 65504.0) : vec4(0.0);
        const vec4 rest = q - round_halves(q);
        if (item < kQueryItems)
            query_parts[item] = uvec4(packHalf2x16(first_pair(q)), packHalf2x16(second_pair(q)),
                                      packHalf2x16(first_pair(rest)), packHalf2x16(second_pair(rest)));
    }
    barrier();
}

// Where tokens of a turn lie: this lane's one of them, and a bit for each visible one.
struct TurnPlace {
    uint row;
    uint visible;
};
TurnPlace find_turn(uint first, uint end) {
    TurnPlace p;
    bool visible;
    attend_place(first + gl_SubgroupInvocationID % kTokensInFlight, end, p.row, visible);
    p.visible = subgroupBallot(visible).x;
    return p;
}

TileUnit attend_k[kTiles * 2 * kKeyUnits];    // tokens g and g + 8
TileUnit attend_v[kTiles * 4 * kValueUnits];  // tokens 2t, 2t + 1, 2t + 8, 2t + 9
uint value_token(uint i) { return 2 * lane_part() + i % 2 + i / 2 * 8; }

void fetch_keys(TurnPlace p) {
    [[unroll]] for (uint i = 0; i < kTiles * 2; ++i) {
        const uint row = subgroupShuffle(p.row, i * 8 + lane_head());
        [[unroll]] for (uint j = 0; j < kKeyUnits; ++j)
            TILE_FETCH(key_pool, row, 4 * j + lane_part(), attend_k[i * kKeyUnits + j])
    }
}
void fetch_values(TurnPlace p) {
    [[unroll]] for (uint i = 0; i < kTiles * 4; ++i) {
        const uint row = subgroupShuffle(p.row, i / 4 * kTileTokens + value_token(i % 4));
        [[unroll]] for (uint v = 0; v < kValueUnits; ++v)
            TILE_FETCH(value_pool, row, 8 * v + lane_head(), attend_v[i * kValueUnits + v])
    }
}

#define PUT_PAIR(matrix, at, word)                             \
    {                                                          \
        const f16vec2 pair = unpackFloat2x16(word);            \
        matrix[at] = pair.x;                                   \
        matrix[at + 1] = pair.y;                               \
    }
// All eight elements of a lane.
#define PUT_PAIRS(matrix, words)  \
    PUT_PAIR(matrix, 0, (words).x) \
    PUT_PAIR(matrix, 2, (words).y) \
    PUT_PAIR(matrix, 4, (words).z) \
    PUT_PAIR(matrix, 6, (words).w)

// In powers of two, of this lane's head and tokens value_token(0..3) of a tile.
vec4 tile_scores(uint tile) {
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> s =
        coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    [[unroll]] for (uint j = 0; j < kKeyUnits; ++j) {
        [[unroll]] for (uint h = 0; h < kUnitSteps; ++h) {
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
            const uvec4 q = query_parts[(j * kUnitSteps + h) * 32 + gl_SubgroupInvocationID];
            PUT_PAIRS(a, q)
            PUT_PAIR(b, 0, tile_pair(attend_k[tile * 2 * kKeyUnits + j], 2 * h))
            PUT_PAIR(b, 2, tile_pair(attend_k[tile * 2 * kKeyUnits + j], 2 * h + 1))
            PUT_PAIR(b, 4, tile_pair(attend_k[(tile * 2 + 1) * kKeyUnits + j], 2 * h))
            PUT_PAIR(b, 6, tile_pair(attend_k[(tile * 2 + 1) * kKeyUnits + j], 2 * h + 1))
            s = coopMatMulAdd(a, b, s);
        }
    }
    return vec4(s[0] + s[4], s[1] + s[5], s[2] + s[6], s[3] + s[7]);
}

// The largest score of a head outgrew its reference, which is rare: its sums go over to a new one.
void raise_reference(float largest) {
    largest = max(largest, subgroupShuffleXor(largest, 1));
    largest = max(max(largest, subgroupShuffleXor(largest, 2)), reference);
    const float factor = exp2(reference - largest);
    reference = largest;
    own_sum *= factor;
    // Element by element: a matrix times a number wants the number alike in all lanes.
    [[unroll]] for (uint x = 0; x < kSums; ++x)
        [[unroll]] for (uint e = 0; e < 8; ++e) attend_o[x][e] *= factor;
}

void add_values(uint tile, vec4 p, uint visible) {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
    const vec4 rest = p - round_halves(p);
    PUT_PAIR(a, 0, packHalf2x16(p.xy))
    PUT_PAIR(a, 2, packHalf2x16(p.zw))
    PUT_PAIR(a, 4, packHalf2x16(rest.xy))
    PUT_PAIR(a, 6, packHalf2x16(rest.zw))
    [[unroll]] for (uint v = 0; v < kValueUnits; ++v) {
        [[unroll]] for (uint w = 0; w < kUnitPairs; ++w) {
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                uint word = tile_pair(attend_v[(tile * 4 + i) * kValueUnits + v], w);
                // Zero times what an invisible token's row holds might be no number.
                if (visible != 0xffffu && (visible >> value_token(i) & 1) == 0) word = 0;
                const f16vec2 pair = unpackFloat2x16(word);
                b[i] = pair.x;
                b[4 + i] = pair.y;
            }
            attend_o[kUnitPairs * v + w] = coopMatMulAdd(a, b, attend_o[kUnitPairs * v + w]);
        }
    }
}

// Attends to the places [begin, end), kTokensInFlight of each subgroup in turn; `skip` is not for this variant. A turn's
// loads are sent for while the one before is worked on. One loop for the first turn's too would be a tenth less code, and
// a twentieth slower.
void attend_range(uint begin, uint end, float skip) {
    uint i = begin + gl_SubgroupID * kTokensInFlight;
    TurnPlace place = find_turn(i, end);
    fetch_keys(place);
    if (kAhead) fetch_values(place);
#ifndef WINNOW_SCORES
    put_queries();  // else it is done
#endif
    for (; i < end; i += kSubgroups * kTokensInFlight) {
        const TurnPlace next = find_turn(i + kSubgroups * kTokensInFlight, end);
        vec4 score[kTiles];
        float largest = kEmpty;
        [[unroll]] for (uint u = 0; u < kTiles; ++u) {
            const uint visible = place.visible >> u * kTileTokens;
            score[u] = tile_scores(u);
            [[unroll]] for (uint t = 0; t < 4; ++t)
                if ((visible >> value_token(t) & 1) == 0) score[u][t] = kEmpty;
            largest = max(largest, max(max(score[u].x, score[u].y), max(score[u].z, score[u].w)));
        }
        if (kAhead) fetch_keys(next);
        else fetch_values(place);
        if (subgroupBallot(largest > reference + kSlack).x != 0) raise_reference(largest);
        [[unroll]] for (uint u = 0; u < kTiles; ++u) {
            const uint visible = place.visible >> u * kTileTokens & 0xffffu;
            vec4 p = exp2(score[u] + (kBias - reference));
            [[unroll]] for (uint t = 0; t < 4; ++t)
                if ((visible >> value_token(t) & 1) == 0) p[t] = 0.0;
            own_sum += (p.x + p.y) + (p.z + p.w);
            add_values(u, p, visible);
        }
        if (kAhead) fetch_values(next);
        else fetch_keys(next);
        place = next;
    }
}

// Merges the states of the whole workgroup, four vectors of a lane at a time: o into merge_output, not normalised, (m, d)
// into merge_total. Ends with a barrier.
void attend_merge_workgroup() {
    own_sum += subgroupShuffleXor(own_sum, 1);
    own_sum += subgroupShuffleXor(own_sum, 2);
    if (lane_part() == 0 && lane_head() < kGroup)
        merge_md[gl_SubgroupID * kGroup + lane_head()] =
            vec2(own_sum == 0.0 ? kEmpty : (reference - kBias) / kLog2E, own_sum);
    barrier();
    weigh_parts(false, kSubgroups, kSubgroups, 0);
    [[unroll]] for (uint round = 0; round < kSums / 4; ++round) {
        // A lane has two neighbouring units of its head, matrix w the pair w of each.
        const uint v = round / (kUnitSteps / 2), first = round % (kUnitSteps / 2) * 4;
        if (lane_head() < kGroup) {
            [[unroll]] for (uint k = 0; k < 4; ++k) {
                const uint x = kUnitPairs * v + (first + k) % kUnitSteps * 2, e = (first + k) / kUnitSteps;
                merge_quads[gl_SubgroupID * kStateQuads + gl_SubgroupInvocationID * 4 + k] =
                    from_pairs(vec2(attend_o[x][e] + attend_o[x][4 + e], attend_o[x][2 + e] + attend_o[x][6 + e]),
                               vec2(attend_o[x + 1][e] + attend_o[x + 1][4 + e],
                                    attend_o[x + 1][2 + e] + attend_o[x + 1][6 + e]));
            }
        }
        barrier();
        for (uint i = gl_LocalInvocationIndex; i < kStateQuads; i += kGroupSize) {
            const uint g = i / 16;
            vec4 sum = vec4(0.0);
            for (uint s = 0; s < kSubgroups; ++s)
                sum += merge_weights[g * kMostWeights + s] * merge_quads[s * kStateQuads + i];
            merge_output[g * kHeadQuads + (8 * v + i % 16 / 4 * 2) * kUnitSteps + first + i % 4] = sum;
        }
        barrier();
    }
}

#endif
