// SPDX-License-Identifier: Apache-2.0
// Decode attention over cached tokens, shared by the dense and the sparse stages. Subgroups attend to their tokens,
// each with an online softmax state (o, m, d) of the kGroup query heads: by lanes (attend_lanes.glsl) or by matrix units
// (attend_matrices.glsl, WINNOW_MATRICES). kEvicted: tokens that left a head's window count as one more token, of their
// mean key and value and with their number as its weight (RazorAttention). Off, nothing of it is left in the compiled
// stage. The states merge at the end, in the workgroup through shared memory, across
// workgroups by the last one to arrive (fixed order: same bits each time). The includer defines the specialisation
// constants named here, the bindings of KeyPool and ValuePool, and attend_place().
// Code counts as bytes do: what the stages of a layer execute must fit a processor's instruction cache (128 KiB on an
// H200), or all of them run slower (DESIGN.md). Loops here that have one turn in common cases are written so that the
// compiler sees it.
#ifndef WINNOW_ATTEND_GLSL
#define WINNOW_ATTEND_GLSL
#include "shaders/common/words.glsl"
#include "shaders/common/evicted.glsl"
#include "shaders/common/subgroup_lanes.glsl"

READ_WORDS(key_pool, KEY_BINDING, restrict readonly)
READ_WORDS(value_pool, VALUE_BINDING, restrict readonly)
layout(set = 0, binding = QUERY_BINDING, scalar) restrict readonly buffer Query { vec4 query[]; };
// Partial states: [kv head][split]([kGroup][kHeadDim] o, then [kGroup] (m, d)), f32
layout(set = 0, binding = PARTIAL_BINDING, scalar) coherent buffer PartialPairs { vec2 partial_pairs[]; };
layout(set = 0, binding = PARTIAL_BINDING, scalar) coherent buffer PartialQuads { vec4 partial_quads[]; };
layout(set = 0, binding = COUNTER_BINDING, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = OUTPUT_BINDING, scalar) restrict writeonly buffer Output { vec4 attended[]; };
layout(set = 0, binding = EVICTED_BINDING, scalar) restrict readonly buffer EvictedSums { uvec2 evicted_sums[]; };

const uint kSplitSize = kGroup * kHeadDim + (2 * kGroup + 3) / 4 * 4;  // floats of a split's partial states
const uint kHeadQuads = kHeadDim / 4;
const uint kMergeQuads = kGroup * kHeadQuads;
const uint kParts = kGroupSize >= 4 * kMergeQuads ? 4 : (kGroupSize >= 2 * kMergeQuads ? 2 : 1);
const uint kMostWeights = kMaxSplits > kSubgroups ? kMaxSplits : kSubgroups;
const float kEmpty = -3.0e38;

#ifdef WINNOW_MATRICES
#include "shaders/common/kv_tile.glsl"
const uint kStateQuads = kGroup * 16;  // of a subgroup's o that merge at once
#else
const uint kStateQuads = kMergeQuads;
#endif
// o of each subgroup; then sums of parts of the splits
shared vec4 merge_quads[kSubgroups * kStateQuads > kParts * kMergeQuads ? kSubgroups * kStateQuads : kParts * kMergeQuads];
shared vec2 merge_md[kSubgroups * kGroup];
shared float merge_weights[kMostWeights * kGroup];  // by head, of subgroups and then of splits
shared vec2 merge_total[kGroup];                    // (m, d) of the workgroup, then of all splits
shared vec4 merge_output[kMergeQuads];
shared uint merge_arrived;

// Where the token at `place` of a range that ends with `end` lies. The includer defines it. The row of an invisible
// token, which all from `end` on are, is read all the same, since a load without a branch around it can start early; it
// must lie inside the pool, what it holds does not matter.
void attend_place(uint place, uint end, out uint row, out bool visible);

// Weights of n parts of each head's softmax, n <= most, for their sum, and merge_total; one subgroup per head, one lane
// per part. `of_splits`: of the splits' partial states, otherwise of the subgroups'.
vec2 part_md(const bool of_splits, uint part, uint g, uint states_at) {
    return of_splits ? partial_pairs[(states_at + part * kSplitSize + kGroup * kHeadDim) / 2 + g]
                     : merge_md[part * kGroup + g];
}
void weigh_parts(const bool of_splits, uint n, const uint most, uint states_at) {
    for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
        // The first part of a lane stays in registers: mostly it is the only one.
        const uint lane = gl_SubgroupInvocationID;
        const vec2 first = lane < n ? part_md(of_splits, lane, g, states_at) : vec2(kEmpty, 0.0);
        float largest = first.x;
        if (most > kSubgroupLanes)
            for (uint p = lane + kSubgroupLanes; p < n; p += kSubgroupLanes)
                largest = max(largest, part_md(of_splits, p, g, states_at).x);
        largest = subgroupMax(largest);
        const float weight = exp(first.x - largest);
        if (lane < n) merge_weights[g * kMostWeights + lane] = weight;
        float total = weight * first.y;
        if (most > kSubgroupLanes) {
            for (uint p = lane + kSubgroupLanes; p < n; p += kSubgroupLanes) {
                const vec2 md = part_md(of_splits, p, g, states_at);
                const float more = exp(md.x - largest);
                merge_weights[g * kMostWeights + p] = more;
                total += more * md.y;
            }
        }
        total = subgroupAdd(total);
        if (subgroupElect()) merge_total[g] = vec2(largest, total);
    }
}

vec4 evicted_mean(uint at, float inverse) {
    vec4 mean;
    [[unroll]] for (uint e = 0; e < 4; ++e) mean[e] = from_sum(evicted_sums[at + e]) * inverse;
    return mean;
}

#ifdef WINNOW_MATRICES
#include "shaders/common/attend_matrices.glsl"
#else
#include "shaders/common/attend_lanes.glsl"
#endif

// Of the last workgroup's sum over the splits: invocations that would idle take every kParts-th split; each holds
// kHeldParts loads under way.
const uint kPartsEach = (kMaxSplits + kParts - 1) / kParts;
const uint kHeldParts = kPartsEach < 8 ? kPartsEach : 8;
const uint kItems = kMergeQuads * kParts;
vec4 held_parts[kHeldParts];
void fetch_parts(uint states_at, uint item, uint first, uint n_active) {
    [[unroll]] for (uint k = 0; k < kHeldParts; ++k) {
        const uint split = min(item / kMergeQuads + (first + k) * kParts, n_active - 1);
        held_parts[k] = partial_quads[(states_at + split * kSplitSize) / 4 + item % kMergeQuads];
    }
}

// Log of a head's denominator, in the workgroup for which attend_finish() is true.
float attend_lse(uint g) { return merge_total[g].x + log(merge_total[g].y); }

// After attend_merge_workgroup: leaves the normalised output of the kv head in merge_output and `attended` in exactly
// one workgroup of the n_active ones and returns true there.
bool attend_finish(uint kv_head, uint split, uint n_active, uint counter) {
    if (n_active > 1) {
        const uint states_at = kv_head * kMaxSplits * kSplitSize;
        const uint own = states_at + split * kSplitSize;
        for (uint i = gl_LocalInvocationIndex; i < kMergeQuads; i += kGroupSize)
            partial_quads[own / 4 + i] = merge_output[i];
        if (gl_LocalInvocationIndex < kGroup)
            partial_pairs[(own + kGroup * kHeadDim) / 2 + gl_LocalInvocationIndex] =
                merge_total[gl_LocalInvocationIndex];
        memoryBarrierBuffer();
        barrier();
        if (gl_LocalInvocationIndex == 0) {
            merge_arrived = atomicAdd(counters[counter], 1);
            if (merge_arrived == n_active - 1) counters[counter] = 0;
        }
        barrier();
        if (merge_arrived != n_active - 1) return false;
        memoryBarrierBuffer();
        fetch_parts(states_at, gl_LocalInvocationIndex, 0, n_active);  // beside the loads of the weights
        weigh_parts(true, n_active, kMaxSplits, states_at);
        barrier();
        for (uint round = 0; round < (kItems + kGroupSize - 1) / kGroupSize; ++round) {
            const uint item = gl_LocalInvocationIndex + round * kGroupSize;
            const uint g = item % kMergeQuads / kHeadQuads;
            vec4 sum = vec4(0.0);
            for (uint first = 0; first < kPartsEach && first * kParts < n_active; first += kHeldParts) {
                if (round + first != 0) fetch_parts(states_at, item, first, n_active);
                [[unroll]] for (uint k = 0; k < kHeldParts; ++k) {
                    const uint s = item / kMergeQuads + (first + k) * kParts;
                    if (s < n_active) sum += merge_weights[g * kMostWeights + s] * held_parts[k];
                }
            }
            if (item < kItems) merge_quads[item] = sum;
        }
        barrier();
    }
    for (uint i = gl_LocalInvocationIndex; i < kMergeQuads; i += kGroupSize) {
        vec4 sum = merge_output[i];
        if (n_active > 1) {
            sum = merge_quads[i];
            [[unroll]] for (uint part = 1; part < kParts; ++part) sum += merge_quads[part * kMergeQuads + i];
        }
        sum *= 1.0 / merge_total[i / kHeadQuads].y;
        merge_output[i] = sum;
        attended[kv_head * kMergeQuads + i] = sum;
    }
    barrier();
    return true;
}

#endif
