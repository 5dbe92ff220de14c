// SPDX-License-Identifier: Apache-2.0
// Decode attention over cached tokens, shared by the dense and the sparse stage. kLanes neighbouring lanes take one
// token (8 dimensions at a time); every lane group keeps an online softmax state (o, m, d) of its own for
// the kGroup query heads, and the states merge once at the end: in the subgroup by shuffles, in the workgroup through
// shared memory, across workgroups by the last one to arrive (fixed order: same bits each time).
// The includer defines the specialisation constants named here and the bindings of KeyPool and ValuePool, and
// attend_places().
// kEvicted: tokens that left a head's window count as one more token, of their mean key and value and with their number
// as its weight (RazorAttention). Off, nothing of it is left in the compiled stage.
#ifndef WINNOW_ATTEND_GLSL
#define WINNOW_ATTEND_GLSL
#include "shaders/common/words.glsl"
#include "shaders/common/evicted.glsl"

READ_WORDS(key_pool, KEY_BINDING, restrict readonly)
READ_WORDS(value_pool, VALUE_BINDING, restrict readonly)
layout(set = 0, binding = QUERY_BINDING, scalar) restrict readonly buffer Query { vec4 query[]; };
// Partial states: [kv head][split]([kGroup][kHeadDim] o, then [kGroup] (m, d)), f32
layout(set = 0, binding = PARTIAL_BINDING, scalar) coherent buffer Partials { float partials[]; };
layout(set = 0, binding = PARTIAL_BINDING, scalar) coherent buffer PartialQuads { vec4 partial_quads[]; };
layout(set = 0, binding = COUNTER_BINDING, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = OUTPUT_BINDING, scalar) restrict writeonly buffer Output { float attended[]; };
layout(set = 0, binding = EVICTED_BINDING, scalar) restrict readonly buffer EvictedSums { uvec2 evicted_sums[]; };

const uint kUnits = kHeadDim / 8;                            // 8 dimensions each
const uint kUnitsPerLane = (kUnits + kLanes - 1) / kLanes;
const uint kQuadsPerLane = 2 * kUnitsPerLane;                // vec4 registers per head
const uint kStateSize = kHeadDim + 2;
const uint kSplitSize = kGroup * kHeadDim + (2 * kGroup + 3) / 4 * 4;  // floats of a split's partial states
const uint kMergeQuads = kGroup * kHeadDim / 4;
const uint kParts = kGroupSize >= 4 * kMergeQuads ? 4 : (kGroupSize >= 2 * kMergeQuads ? 2 : 1);
const float kEmpty = -3.0e38;

shared float merge_states[kSubgroups * kGroup * kStateSize];
shared float merge_weights[(kMaxSplits > kSubgroups ? kMaxSplits : kSubgroups) * kGroup];
shared float merge_sums[kGroup];
shared float merge_output[kGroup * kHeadDim];
shared float merge_parts[kParts * kGroup * kHeadDim];
shared uint merge_arrived;

vec4 attend_q[kGroup * kQuadsPerLane];
vec4 attend_o[kGroup * kQuadsPerLane];
float attend_m[kGroup];
float attend_d[kGroup];

uint attend_lane() { return gl_SubgroupInvocationID % kLanes; }
uint attend_slot() { return gl_LocalInvocationIndex / kLanes; }
const uint kSlots = kGroupSize / kLanes;

// The scores of the tokens in flight, kValues in all (token by token, head by head), are summed over the lanes so that
// each lane is left with kOwned of them, in half the shuffles and with one exp for each and not one in every lane. Step
// by step lanes that differ in one bit share out what they have in halves, tokens first, as long as it is even.
const uint kValues = kTokensInFlight * kGroup;
const uint kOwned1 = kValues / (1 + (kLanes > 1 ? 1 - kValues % 2 : 0));
const uint kOwned2 = kOwned1 / (1 + (kLanes > 2 ? 1 - kOwned1 % 2 : 0));
const uint kOwned3 = kOwned2 / (1 + (kLanes > 4 ? 1 - kOwned2 % 2 : 0));
const uint kOwned4 = kOwned3 / (1 + (kLanes > 8 ? 1 - kOwned3 % 2 : 0));
const uint kOwned = kOwned4 / (1 + (kLanes > 16 ? 1 - kOwned4 % 2 : 0));

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
            const uint unit = attend_lane() + u * kLanes;
            const uint at = ((kv_head * kGroup + g) * kHeadDim + unit * 8) / 4;
            const bool inside = unit < kUnits;
            attend_q[g * kQuadsPerLane + 2 * u] = inside ? query[at] : vec4(0.0);
            attend_q[g * kQuadsPerLane + 2 * u + 1] = inside ? query[at + 1] : vec4(0.0);
            attend_o[g * kQuadsPerLane + 2 * u] = vec4(0.0);
            attend_o[g * kQuadsPerLane + 2 * u + 1] = vec4(0.0);
        }
    }
}

// The lane of a group that owns value x, and its place there.
uvec2 owner_of(uint x) {
    uint lane = 0;
    if (kOwned1 < kValues && x >= kOwned1) { lane |= 1; x -= kOwned1; }
    if (kOwned2 < kOwned1 && x >= kOwned2) { lane |= 2; x -= kOwned2; }
    if (kOwned3 < kOwned2 && x >= kOwned3) { lane |= 4; x -= kOwned3; }
    if (kOwned4 < kOwned3 && x >= kOwned4) { lane |= 8; x -= kOwned4; }
    if (kOwned < kOwned4 && x >= kOwned) { lane |= 16; x -= kOwned; }
    return uvec2(lane, x);
}
// The inverse: the value, token * kGroup + head, that this lane owns at place j. All that a lane owns is of one token.
uint own_value(uint j) {
    uint x = j;
    if (kOwned1 < kValues && (attend_lane() & 1) != 0) x += kOwned1;
    if (kOwned2 < kOwned1 && (attend_lane() & 2) != 0) x += kOwned2;
    if (kOwned3 < kOwned2 && (attend_lane() & 4) != 0) x += kOwned3;
    if (kOwned4 < kOwned3 && (attend_lane() & 8) != 0) x += kOwned4;
    if (kOwned < kOwned4 && (attend_lane() & 16) != 0) x += kOwned;
    return x;
}
float own_by_head(float own[kOwned], uint g) {
    const uvec2 owner = owner_of(g);
    // Where a token takes a whole subgroup the lane is the same for all: a software driver has no loop over lanes for
    // that.
    if (kGroupSize / kSubgroups == kLanes) return subgroupBroadcast(own[owner.y], owner.x);
    return subgroupShuffle(own[owner.y], gl_SubgroupInvocationID - attend_lane() + owner.x);
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
        const uint dim = min(attend_lane() + u * kLanes, kUnits - 1) * 8;  // of a unit beyond the row the query is zero
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
        const uint dim = min(attend_lane() + u * kLanes, kUnits - 1) * 8;
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
            // Of a unit beyond the row the query is zero.
            const uint unit = min(attend_lane() + u * kLanes, kUnits - 1);
            KV_FETCH(key_pool, rows[t], unit, attend_k[t * kUnitsPerLane + u])
        }
    }
}

void attend_fetch_values(uint rows[kTokensInFlight], bool visible[kTokensInFlight]) {
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = min(attend_lane() + u * kLanes, kUnits - 1);
            if (!kSkipValues || visible[t]) KV_FETCH(value_pool, rows[t], unit, attend_v[t * kUnitsPerLane + u])
        }
    }
}

// One such step for the scores v: lanes that differ in `bit` hold `before` of them and keep `after`.
#define SHARE_OUT(bit, before, after)                                                                          \
    if (kLanes > bit) {                                                                                        \
        const bool upper = (attend_lane() & bit) != 0;                                                         \
        [[unroll]] for (uint i = 0; i < after; ++i) {                                                          \
            const float given = after < before && !upper ? v[min(i + after, before - 1)] : v[i];               \
            if (after < before && upper) v[i] = v[min(i + after, before - 1)];                                 \
            v[i] += subgroupShuffleXor(given, bit);                                                            \
        }                                                                                                      \
    }

// Weights of the tokens whose keys are there; the running maximum is raised once for all of them.
// kSkipValues: a value row whose weight is below `skip` of the running maximum for every head is neither read nor
// counted.
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
    SHARE_OUT(1, kValues, kOwned1)
    SHARE_OUT(2, kOwned1, kOwned2)
    SHARE_OUT(4, kOwned2, kOwned3)
    SHARE_OUT(8, kOwned3, kOwned4)
    SHARE_OUT(16, kOwned4, kOwned)
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

// Merges the states of the whole workgroup: o into merge_output, not normalised, d into merge_sums; (m, d) of head g
// also into attend_m[0] and attend_d[0] of invocation g.
void attend_merge_workgroup() {
    [[unroll]] for (uint j = 0; j < kOwned; ++j)
        [[unroll]] for (uint d = 1; d < kTokensInFlight; d <<= 1) own_d[j] += subgroupShuffleXor(own_d[j], d);
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        attend_m[g] = own_by_head(own_m, g);
        attend_d[g] = own_by_head(own_d, g);
        for (uint d = kLanes; d < gl_SubgroupSize; d <<= 1) {
            const float m = subgroupShuffleXor(attend_m[g], d);
            const float largest = max(m, attend_m[g]);
            const float own = exp(attend_m[g] - largest);
            const float other = exp(m - largest);
            attend_d[g] = own * attend_d[g] + other * subgroupShuffleXor(attend_d[g], d);
            [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i) {
                const vec4 o = attend_o[g * kQuadsPerLane + i];
                attend_o[g * kQuadsPerLane + i] = own * o + other * subgroupShuffleXor(o, d);
            }
            attend_m[g] = largest;
        }
        const uint state_at = (gl_SubgroupID * kGroup + g) * kStateSize;
        if (gl_SubgroupInvocationID < kLanes) {
            [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
                const uint unit = attend_lane() + u * kLanes;
                if (unit < kUnits) {
                    [[unroll]] for (uint i = 0; i < 4; ++i) {
                        merge_states[state_at + unit * 8 + i] = attend_o[g * kQuadsPerLane + 2 * u][i];
                        merge_states[state_at + unit * 8 + 4 + i] = attend_o[g * kQuadsPerLane + 2 * u + 1][i];
                    }
                }
            }
            if (gl_SubgroupInvocationID == 0) {
                merge_states[state_at + kHeadDim] = attend_m[g];
                merge_states[state_at + kHeadDim + 1] = attend_d[g];
            }
        }
    }
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < kSubgroups * kGroup; i += kGroupSize) {
        float largest = kEmpty;
        for (uint s = 0; s < kSubgroups; ++s)
            largest = max(largest, merge_states[(s * kGroup + i % kGroup) * kStateSize + kHeadDim]);
        merge_weights[i] = exp(merge_states[i * kStateSize + kHeadDim] - largest);
        if (i < kGroup) attend_m[0] = largest;
    }
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize) {
        const uint g = i / kHeadDim;
        float sum = 0.0;
        for (uint s = 0; s < kSubgroups; ++s)
            sum += merge_weights[s * kGroup + g] * merge_states[(s * kGroup + g) * kStateSize + i % kHeadDim];
        merge_output[i] = sum;
    }
    if (gl_LocalInvocationIndex < kGroup) {
        attend_d[0] = 0.0;
        for (uint s = 0; s < kSubgroups; ++s) {
            const uint state_of = s * kGroup + gl_LocalInvocationIndex;
            attend_d[0] += merge_weights[state_of] * merge_states[state_of * kStateSize + kHeadDim + 1];
        }
        merge_sums[gl_LocalInvocationIndex] = attend_d[0];
    }
    barrier();
}

// After attend_merge_workgroup: leaves the normalised output of the kv head in merge_output in exactly one workgroup
// of the n_active ones and returns true there. `lse` of head g is kept in merge_states[g].
bool attend_finish(uint kv_head, uint split, uint n_active, uint counter) {
    const uint states_at = kv_head * kMaxSplits * kSplitSize;
    if (n_active > 1) {
        const uint own = states_at + split * kSplitSize;
        for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize)
            partials[own + i] = merge_output[i];
        if (gl_LocalInvocationIndex < kGroup) {
            const uint at = own + kGroup * kHeadDim + 2 * gl_LocalInvocationIndex;
            partials[at] = attend_m[0];
            partials[at + 1] = attend_d[0];
        }
        memoryBarrierBuffer();
        barrier();
        if (gl_LocalInvocationIndex == 0) {
            merge_arrived = atomicAdd(counters[counter], 1);
            if (merge_arrived == n_active - 1) counters[counter] = 0;
        }
        barrier();
        if (merge_arrived != n_active - 1) return false;
        memoryBarrierBuffer();
        // Invocations that would idle take every kParts-th split; each holds eight loads under way, the first of them
        // beside the weights'.
        vec4 part[8];
        const uint first_split = gl_LocalInvocationIndex / kMergeQuads;
        const uint first_quad = gl_LocalInvocationIndex % kMergeQuads;
        [[unroll]] for (uint k = 0; k < 8; ++k)
            part[k] =
                partial_quads[(states_at + min(first_split + k * kParts, n_active - 1) * kSplitSize) / 4 + first_quad];
        // One subgroup per head turns the splits' maxima into weights.
        for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
            // The first split of a lane stays in registers: mostly it is the only one.
            const bool first_inside = gl_SubgroupInvocationID < n_active;
            const uint first_at = states_at + gl_SubgroupInvocationID * kSplitSize + kGroup * kHeadDim + 2 * g;
            const float first_m = first_inside ? partials[first_at] : kEmpty;
            const float first_d = first_inside ? partials[first_at + 1] : 0.0;
            float largest = first_m;
            for (uint s = gl_SubgroupInvocationID + gl_SubgroupSize; s < n_active; s += gl_SubgroupSize)
                largest = max(largest, partials[states_at + s * kSplitSize + kGroup * kHeadDim + 2 * g]);
            largest = subgroupMax(largest);
            const float first_weight = exp(first_m - largest);
            if (first_inside) merge_weights[g * kMaxSplits + gl_SubgroupInvocationID] = first_weight;
            float total = first_weight * first_d;
            for (uint s = gl_SubgroupInvocationID + gl_SubgroupSize; s < n_active; s += gl_SubgroupSize) {
                const uint at = states_at + s * kSplitSize + kGroup * kHeadDim + 2 * g;
                const float weight = exp(partials[at] - largest);
                merge_weights[g * kMaxSplits + s] = weight;
                total += weight * partials[at + 1];
            }
            total = subgroupAdd(total);
            if (subgroupElect()) {
                merge_states[g] = largest + log(total);
                merge_states[kGroup + g] = 1.0 / total;
            }
        }
        barrier();
        for (uint item = gl_LocalInvocationIndex; item < kMergeQuads * kParts; item += kGroupSize) {
            const uint i = item % kMergeQuads;
            const uint g = i / (kHeadDim / 4);
            vec4 sum = vec4(0.0);
            for (uint s0 = item / kMergeQuads; s0 < n_active; s0 += 8 * kParts) {
                if (item >= kGroupSize || s0 >= kParts)
                    [[unroll]] for (uint k = 0; k < 8; ++k)
                        part[k] = partial_quads[(states_at + min(s0 + k * kParts, n_active - 1) * kSplitSize) / 4 + i];
                [[unroll]] for (uint k = 0; k < 8; ++k)
                    if (s0 + k * kParts < n_active) sum += merge_weights[g * kMaxSplits + s0 + k * kParts] * part[k];
            }
            [[unroll]] for (uint e = 0; e < 4; ++e)
                merge_parts[(item / kMergeQuads * kMergeQuads + i) * 4 + e] = sum[e];
        }
        barrier();
        for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize) {
            float sum = 0.0;
            [[unroll]] for (uint part = 0; part < kParts; ++part) sum += merge_parts[part * kGroup * kHeadDim + i];
            merge_output[i] = sum * merge_states[kGroup + i / kHeadDim];
        }
        barrier();
        return true;
    }
    if (gl_LocalInvocationIndex < kGroup) merge_states[gl_LocalInvocationIndex] = attend_m[0] + log(attend_d[0]);
    for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize)
        merge_output[i] *= 1.0 / merge_sums[i / kHeadDim];
    barrier();
    return true;
}

#endif
