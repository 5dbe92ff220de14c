// SPDX-License-Identifier: Apache-2.0
// The part of attend.glsl that attends, by lanes: kLanes neighbouring lanes take one token (8 dimensions at a time);
// every lane group keeps a softmax state of its own, and they merge in the subgroup by shuffles at the end.
#ifndef WINNOW_ATTEND_LANES_GLSL
#define WINNOW_ATTEND_LANES_GLSL

const uint kUnits = kHeadDim / 8;                            // 8 dimensions each
const uint kUnitsPerLane = (kUnits + kLanes - 1) / kLanes;
const uint kQuadsPerLane = 2 * kUnitsPerLane;                // vec4 registers per head

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

void put_queries() {}  // they stay in registers

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
        [[unroll]] for (uint t = 0; t < kTokensInFlight; ++t)
            attend_place(i + t * kSlots + attend_slot(), end, rows[t], visible[t]);
        attend_fetch_keys(rows);
        attend_weigh(visible, skip);
        attend_fetch_values(rows, visible);
        attend_add_values(visible);
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

#endif
