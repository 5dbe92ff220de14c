// SPDX-License-Identifier: Apache-2.0
// Decode attention over cached tokens, shared by the dense and the sparse stage. kLanes neighbouring lanes take one
// token (8 dimensions at a time); every lane group keeps an online softmax state (o, m, d) of its own for the kGroup
// query heads, and the states merge once at the end: in the subgroup by shuffles, in the workgroup through shared
// memory, across workgroups by the last one to arrive (fixed order: same bits each time). The includer defines the
// specialisation constants named here and the bindings of KeyPool and ValuePool, and attend_places(). kEvicted: tokens
// that left a head's window count as one more token, of their mean key and value and with their number as its weight
// (RazorAttention). Off, nothing of it is left in the compiled stage.
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

const uint kUnits = kHeadDim / 8;                            // 8 dimensions each
const uint kUnitsPerLane = (kUnits + kLanes - 1) / kLanes;
const uint kQuadsPerLane = 2 * kUnitsPerLane;                // vec4 registers per head
const uint kSplitSize = kGroup * kHeadDim + (2 * kGroup + 3) / 4 * 4;  // floats of a split's partial states
const uint kHeadQuads = kHeadDim / 4;
const uint kMergeQuads = kGroup * kHeadQuads;
const uint kParts = kGroupSize >= 4 * kMergeQuads ? 4 : (kGroupSize >= 2 * kMergeQuads ? 2 : 1);
const uint kMostWeights = kMaxSplits > kSubgroups ? kMaxSplits : kSubgroups;
const float kEmpty = -3.0e38;

// Code counts as bytes do: what the stages of a layer execute must fit a processor's instruction cache (128 KiB on an
// H200), or all of them run slower (DESIGN.md). Loops here that have one turn in common cases are written so that the
// compiler sees it.
// o of each subgroup; then sums of parts of the splits
shared vec4 merge_quads[(kSubgroups > kParts ? kSubgroups : kParts) * kMergeQuads];
shared vec2 merge_md[kSubgroups * kGroup];
shared float merge_weights[kMostWeights * kGroup];  // by head, of subgroups and then of splits
shared vec2 merge_total[kGroup];                    // (m, d) of the workgroup, then of all splits
shared vec4 merge_output[kMergeQuads];
shared uint merge_arrived;

vec4 attend_q[kGroup * kQuadsPerLane];
vec4 attend_o[kGroup * kQuadsPerLane];

uint attend_slot() { return gl_LocalInvocationIndex / kLanes; }
const uint kSlots = kGroupSize / kLanes;

const uint kValues = kTokensInFlight * kGroup;
#include "shaders/common/share_out.glsl"

// Running maximum and sum of the heads whose scores this lane owns; the sum is of its own token only.
float own_m[kOwned];
float own_d[kOwned];

void attend_init(uint kv_head) {
    [[unroll]] for (uint j = 0; j < kOwned; ++j) {
        own_m[j] = kEmpty;
        own_d[j] = 0.0;
    }
    for (uint g = 0; g < kGroup; ++g) {
        for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = share_lane() + u * kLanes;
            const uint at = ((kv_head * kGroup + g) * kHeadDim + unit * 8) / 4;
            const bool inside = unit < kUnits;
            attend_q[g * kQuadsPerLane + 2 * u] = inside ? query[at] : vec4(0.0);
            attend_q[g * kQuadsPerLane + 2 * u + 1] = inside ? query[at + 1] : vec4(0.0);
            attend_o[g * kQuadsPerLane + 2 * u] = vec4(0.0);
            attend_o[g * kQuadsPerLane + 2 * u + 1] = vec4(0.0);
        }
    }
}

float own_by_head(float own[kOwned], uint g) {
    const uvec2 owner = owner_of(g);
#ifdef WINNOW_TEXELS
    // Where a token takes a whole subgroup the lane is the same for all: a software driver has no loop over lanes for
    // that. NVIDIA's compiler makes the whole stage take twice as long if it only sees this line, though never taken
    // there.
    if (kGroupSize / kSubgroups == kLanes) return subgroupBroadcast(own[owner.y], owner.x);
#endif
    return subgroupShuffle(own[owner.y], gl_SubgroupInvocationID - share_lane() + owner.x);
}

vec4 evicted_mean(uint at, float inverse) {
    vec4 mean;
    [[unroll]] for (uint e = 0; e < 4; ++e) mean[e] = from_sum(evicted_sums[at + e]) * inverse;
    return mean;
}

// The state of one lane group of split 0 begins with the mean of the n tokens of `sum_row` in place of nothing. All
// lanes of the workgroup must come here: they share sums.
void attend_evicted(uint split, uint sum_row, uint n) {
    if (!kEvicted || split != 0 || n == 0) return;
    const float inverse = 1.0 / float(n);
    const uint key_at = sum_row * 2 * kHeadDim;
    const uint value_at = key_at + kHeadDim;
    float score[kGroup];
    [[unroll]] for (uint g = 0; g < kGroup; ++g) score[g] = 0.0;
    for (uint u = 0; u < kUnitsPerLane; ++u) {
        const uint dim = min(share_lane() + u * kLanes, kUnits - 1) * 8;  // of a unit beyond the row the query is zero
        const vec4 a = evicted_mean(key_at + dim, inverse);
        const vec4 b = evicted_mean(key_at + dim + 4, inverse);
        [[unroll]] for (uint g = 0; g < kGroup; ++g)
            score[g] += dot(attend_q[g * kQuadsPerLane + 2 * u], a) + dot(attend_q[g * kQuadsPerLane + 2 * u + 1], b);
    }
    [[unroll]] for (uint g = 0; g < kGroup; ++g)
        for (uint d = 1; d < kLanes; d <<= 1) score[g] += subgroupShuffleXor(score[g], d);
    if (attend_slot() != 0) return;
    [[unroll]] for (uint j = 0; j < kOwned; ++j) {
        [[unroll]] for (uint g = 0; g < kGroup; ++g)
            if (own_value(j) % kGroup == g) own_m[j] = score[g] + log(float(n));
        own_d[j] = own_value(j) < kGroup ? 1.0 : 0.0;
    }
    for (uint u = 0; u < kUnitsPerLane; ++u) {
        const uint dim = min(share_lane() + u * kLanes, kUnits - 1) * 8;
        const vec4 a = evicted_mean(value_at + dim, inverse);
        const vec4 b = evicted_mean(value_at + dim + 4, inverse);
        [[unroll]] for (uint g = 0; g < kGroup; ++g) {
            attend_o[g * kQuadsPerLane + 2 * u] = a;
            attend_o[g * kQuadsPerLane + 2 * u + 1] = b;
        }
    }
}

// Where the tokens that this invocation's slot takes from `i` on lie; i + t * kSlots + attend_slot() is token t of
// them. The includer defines it. Every lane of a lane group is told the same. An invisible token's row is read all the
// same, since a load without a branch around it can start early; it must lie inside the pool, what it holds does not
// matter.
void attend_places(uint i, uint end, out uint rows[kTokensInFlight], out bool visible[kTokensInFlight]);

// Of the tokens in flight, as they lie in memory.
KvUnit attend_k[kTokensInFlight * kUnitsPerLane];
KvUnit attend_v[kTokensInFlight * kUnitsPerLane];
float attend_p[kTokensInFlight * kGroup];

void attend_fetch_keys(uint rows[kTokensInFlight]) {
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = min(share_lane() + u * kLanes, kUnits - 1);  // of a unit beyond the row the query is zero
            KV_FETCH(key_pool, rows[t], unit, attend_k[t * kUnitsPerLane + u])
        }
    }
}

void attend_fetch_values(uint rows[kTokensInFlight], bool visible[kTokensInFlight]) {
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = min(share_lane() + u * kLanes, kUnits - 1);
            if (!kSkipValues || visible[t]) KV_FETCH(value_pool, rows[t], unit, attend_v[t * kUnitsPerLane + u])
        }
    }
}

// Weights of the tokens whose keys are there; the running maximum is raised once for all of them. kSkipValues: a value
// row whose weight is below `skip` of the running maximum for every head is neither read nor counted.
void attend_weigh(inout bool visible[kTokensInFlight], float skip) {
    float v[kValues];
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        vec4 k[kQuadsPerLane];
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u)
            kv_unpack(attend_k[t * kUnitsPerLane + u], k[2 * u], k[2 * u + 1]);
        [[unroll]] for (uint g = 0; g < kGroup; ++g) {
            float score = 0.0;
            [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i) score += dot(attend_q[g * kQuadsPerLane + i], k[i]);
            v[t * kGroup + g] = score;
        }
    }
    share_out(v);
    const uint own_token = own_value(0) / kGroup;
    bool own_visible = false;
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t)
        if (own_token == t) own_visible = visible[t];
    float correction[kOwned];
    float p[kOwned];
    [[unroll]] for (uint j = 0; j < kOwned; ++j) {
        float largest = own_visible ? v[j] : kEmpty;
        [[unroll]] for (uint d = 1; d < kTokensInFlight; d <<= 1)
            largest = max(largest, subgroupShuffleXor(largest, d));
        largest = max(largest, own_m[j]);
        correction[j] = exp(own_m[j] - largest);
        p[j] = own_visible ? exp(v[j] - largest) : 0.0;
        own_m[j] = largest;
    }
    [[unroll]] for (uint x = 0; x < kValues; ++x) attend_p[x] = own_by_head(p, x);
    [[unroll]] for (uint t = 0; kSkipValues && t < kTokensInFlight; ++t) {
        float heaviest = 0.0;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) heaviest = max(heaviest, attend_p[t * kGroup + g]);
        visible[t] = visible[t] && heaviest >= skip;
        if (own_token == t) own_visible = visible[t];
        [[unroll]] for (uint g = 0; g < kGroup; ++g)
            attend_p[t * kGroup + g] = visible[t] ? attend_p[t * kGroup + g] : 0.0;
    }
    [[unroll]] for (uint j = 0; j < kOwned; ++j) own_d[j] = own_d[j] * correction[j] + (own_visible ? p[j] : 0.0);
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        const float c = own_by_head(correction, g);
        [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i) attend_o[g * kQuadsPerLane + i] *= c;
    }
}

void attend_add_values(bool visible[kTokensInFlight]) {
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            vec4 a, b;
            kv_unpack(attend_v[t * kUnitsPerLane + u], a, b);
            if (!visible[t]) a = b = vec4(0.0);  // zero times what stands there might be no number
            [[unroll]] for (uint g = 0; g < kGroup; ++g) {
                attend_o[g * kQuadsPerLane + 2 * u] += attend_p[t * kGroup + g] * a;
                attend_o[g * kQuadsPerLane + 2 * u + 1] += attend_p[t * kGroup + g] * b;
            }
        }
    }
}

// Attends to the places [begin, end), kTokensInFlight of each slot at once so that their loads overlap.
void attend_range(uint begin, uint end, float skip) {
    for (uint i = begin; i < end; i += kSlots * kTokensInFlight) {
        uint rows[kTokensInFlight];
        bool visible[kTokensInFlight];
        attend_places(i, end, rows, visible);
        attend_fetch_keys(rows);
        attend_weigh(visible, skip);
        attend_fetch_values(rows, visible);
        attend_add_values(visible);
    }
}

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

// Merges the states of the whole workgroup: o into merge_output, not normalised, (m, d) into merge_total. Each
// invocation sees what it wrote of merge_output itself.
void attend_merge_workgroup() {
    [[unroll]] for (uint j = 0; j < kOwned; ++j)
        [[unroll]] for (uint d = 1; d < kTokensInFlight; d <<= 1) own_d[j] += subgroupShuffleXor(own_d[j], d);
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        float m = own_by_head(own_m, g);
        float sum = own_by_head(own_d, g);
        for (uint d = kLanes; d < kSubgroupLanes; d <<= 1) {
            const float other_m = subgroupShuffleXor(m, d);
            const float largest = max(m, other_m);
            const float own = exp(m - largest);
            const float other = exp(other_m - largest);
            sum = own * sum + other * subgroupShuffleXor(sum, d);
            [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i) {
                const vec4 o = attend_o[g * kQuadsPerLane + i];
                attend_o[g * kQuadsPerLane + i] = own * o + other * subgroupShuffleXor(o, d);
            }
            m = largest;
        }
        if (gl_SubgroupInvocationID < kLanes) {
            const uint at = gl_SubgroupID * kMergeQuads + g * kHeadQuads;
            [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
                const uint unit = share_lane() + u * kLanes;
                if (unit >= kUnits) continue;
                merge_quads[at + 2 * unit] = attend_o[g * kQuadsPerLane + 2 * u];
                merge_quads[at + 2 * unit + 1] = attend_o[g * kQuadsPerLane + 2 * u + 1];
            }
            if (gl_SubgroupInvocationID == 0) merge_md[gl_SubgroupID * kGroup + g] = vec2(m, sum);
        }
    }
    barrier();
    weigh_parts(false, kSubgroups, kSubgroups, 0);
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < kMergeQuads; i += kGroupSize) {
        vec4 sum = vec4(0.0);
        for (uint s = 0; s < kSubgroups; ++s)
            sum += merge_weights[i / kHeadQuads * kMostWeights + s] * merge_quads[s * kMergeQuads + i];
        merge_output[i] = sum;
    }
}

// Of the last workgroup's sum over the splits: invocations that would idle take every kParts-th split; each holds
// kHeldParts loads under way.
const uint kPartsEach = (kMaxSplits + kParts - 1) / kParts;
const uint kHeldParts = kPartsEach < 16 ? kPartsEach : 16;
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
