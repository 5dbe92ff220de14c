// SPDX-License-Identifier: Apache-2.0
// Decode attention over cached tokens, shared by the dense and the sparse stage. kLanes neighbouring lanes take one
// token (8 dimensions at a time); every lane group keeps an online softmax state (o, m, d) of its own for
// the kGroup query heads, and the states merge once at the end: in the subgroup by shuffles, in the workgroup through shared
// memory, across workgroups by the last one to arrive (fixed order: same bits each time).
// The includer defines the specialisation constants named here and the bindings of KeyPool and ValuePool.
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

void attend_init(uint kv_head) {
    for (uint g = 0; g < kGroup; ++g) {
        attend_m[g] = kEmpty;
        attend_d[g] = 0.0;
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
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        attend_m[g] = score[g] + log(float(n));
        attend_d[g] = 1.0;
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

// Takes kTokensInFlight tokens at once: their loads overlap and the running maximum is raised once.
// Every lane of a lane group passes the same rows. An invisible token's row is read all the same, since a load without a branch around
// it can start early; it must lie inside the pool, what it holds does not matter.
// kSkipValues: a value row whose weight is below `skip` of the running maximum for every head is neither read nor counted.
void attend_tokens(uint rows[kTokensInFlight], bool visible[kTokensInFlight], float skip) {
    vec4 k[kTokensInFlight * kQuadsPerLane];
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = min(attend_lane() + u * kLanes, kUnits - 1);  // of a unit beyond the row the query is zero
            vec4 a, b;
            KV_LOAD(key_pool, rows[t], unit, a, b)
            k[t * kQuadsPerLane + 2 * u] = a;
            k[t * kQuadsPerLane + 2 * u + 1] = b;
        }
    }
    float p[kTokensInFlight * kGroup];
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
        float largest = attend_m[g];
        [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
            float score = 0.0;
            [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i)
                score += dot(attend_q[g * kQuadsPerLane + i], k[t * kQuadsPerLane + i]);
            [[unroll]] for (uint d = 1; d < kLanes; d <<= 1) score += subgroupShuffleXor(score, d);
            p[t * kGroup + g] = score;
            if (visible[t]) largest = max(largest, score);
        }
        const float correction = exp(attend_m[g] - largest);
        attend_m[g] = largest;
        attend_d[g] *= correction;
        [[unroll]] for (uint i = 0; i < kQuadsPerLane; ++i) attend_o[g * kQuadsPerLane + i] *= correction;
        [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t)
            p[t * kGroup + g] = visible[t] ? exp(p[t * kGroup + g] - largest) : 0.0;
    }
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        float heaviest = 0.0;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) heaviest = max(heaviest, p[t * kGroup + g]);
        if (kSkipValues) visible[t] = visible[t] && heaviest >= skip;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) {
            if (!visible[t]) p[t * kGroup + g] = 0.0;
            attend_d[g] += p[t * kGroup + g];
        }
    }
    [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t) {
        [[unroll]] for (uint u = 0; u < kUnitsPerLane; ++u) {
            const uint unit = min(attend_lane() + u * kLanes, kUnits - 1);
            vec4 a = vec4(0.0), b = vec4(0.0);
            if (!kSkipValues || visible[t]) KV_LOAD(value_pool, rows[t], unit, a, b)
            if (!visible[t]) a = b = vec4(0.0);  // zero times what stands there might be no number
            [[unroll]] for (uint g = 0; g < kGroup; ++g) {
                attend_o[g * kQuadsPerLane + 2 * u] += p[t * kGroup + g] * a;
                attend_o[g * kQuadsPerLane + 2 * u + 1] += p[t * kGroup + g] * b;
            }
        }
    }
}

// Merges the states of the whole workgroup: o into merge_output, not normalised, d into merge_sums; (m, d) of head g also into
// attend_m[0] and attend_d[0] of invocation g.
void attend_merge_workgroup() {
    [[unroll]] for (uint g = 0; g < kGroup; ++g) {
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
        for (uint s = 0; s < kSubgroups; ++s) largest = max(largest, merge_states[(s * kGroup + i % kGroup) * kStateSize + kHeadDim]);
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
        for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize) partials[own + i] = merge_output[i];
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
        // One subgroup per head turns the splits' maxima into weights.
        for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
            float largest = kEmpty;
            for (uint s = gl_SubgroupInvocationID; s < n_active; s += gl_SubgroupSize)
                largest = max(largest, partials[states_at + s * kSplitSize + kGroup * kHeadDim + 2 * g]);
            largest = subgroupMax(largest);
            float total = 0.0;
            for (uint s = gl_SubgroupInvocationID; s < n_active; s += gl_SubgroupSize) {
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
        // Invocations that would idle take every kParts-th split; each holds eight loads under way.
        for (uint item = gl_LocalInvocationIndex; item < kMergeQuads * kParts; item += kGroupSize) {
            const uint i = item % kMergeQuads;
            const uint g = i / (kHeadDim / 4);
            vec4 sum = vec4(0.0);
            for (uint s0 = item / kMergeQuads; s0 < n_active; s0 += 8 * kParts) {
                vec4 part[8];
                [[unroll]] for (uint k = 0; k < 8; ++k)
                    part[k] = partial_quads[(states_at + min(s0 + k * kParts, n_active - 1) * kSplitSize) / 4 + i];
                [[unroll]] for (uint k = 0; k < 8; ++k)
                    if (s0 + k * kParts < n_active) sum += merge_weights[g * kMaxSplits + s0 + k * kParts] * part[k];
            }
            [[unroll]] for (uint e = 0; e < 4; ++e) merge_parts[(item / kMergeQuads * kMergeQuads + i) * 4 + e] = sum[e];
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
    for (uint i = gl_LocalInvocationIndex; i < kGroup * kHeadDim; i += kGroupSize) merge_output[i] *= 1.0 / merge_sums[i / kHeadDim];
    barrier();
    return true;
}

#endif
