#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the next token. Filters in the order repetition penalty, top-k, top-p, min-p, temperature; then one draw by
// inverse cumulative probability in token order. Appends it to the ring and advances the state.
// One workgroup handles: one range of the vocabulary, kept in order; the last to arrive finishes the job.
// Bindings: 0 state; 1 logits f32 [n_vocab]; 2 threshold f32 [1]; 3 candidates uvec2 (id, logit bits) [groups][range];
//   4 counts uint [groups]; 5 counters (one); 6 token ring (host visible): uint [0] = tokens written, then the ring
#extension GL_EXT_scalar_block_layout : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroups = 8;
layout(constant_id = 2) const uint kGroups = 64;

#define STATE_BINDING 0
#define STATE_WRITE
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/sampling.glsl"

layout(push_constant, scalar) uniform Push { SamplePush push; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Logits { float logits[]; };
layout(set = 0, binding = 2, scalar) restrict readonly buffer Threshold { float threshold[]; };
layout(set = 0, binding = 3, scalar) coherent buffer Candidates { uvec2 candidates[]; };
layout(set = 0, binding = 4, scalar) coherent buffer Counts { uint counts[]; };
layout(set = 0, binding = 5, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = 6, scalar) restrict writeonly buffer Ring { uint ring[]; };

shared uint subgroup_counts[kSubgroups];
shared float subgroup_floats[kSubgroups];
shared uint first_of[kGroups + 1];
shared uint arrived;
shared uint penalised[WINNOW_MAX_RECENT];

// Few candidates: each subgroup works alone and redundantly, so that no barrier is needed.
bool alone;

uint walk_begin() { return alone ? gl_SubgroupInvocationID : gl_LocalInvocationIndex; }
uint walk_step() { return alone ? gl_SubgroupSize : gl_WorkGroupSize.x; }

float sum_all(float x) {
    x = subgroupAdd(x);
    if (alone) return x;
    barrier();
    if (subgroupElect()) subgroup_floats[gl_SubgroupID] = x;
    barrier();
    float total = 0.0;
    for (uint s = 0; s < kSubgroups; ++s) total += subgroup_floats[s];
    return total;
}
uint count_all(uint x) {
    x = subgroupAdd(x);
    if (alone) return x;
    barrier();
    if (subgroupElect()) subgroup_counts[gl_SubgroupID] = x;
    barrier();
    uint total = 0;
    for (uint s = 0; s < kSubgroups; ++s) total += subgroup_counts[s];
    return total;
}
float max_all(float x) {
    x = subgroupMax(x);
    if (alone) return x;
    barrier();
    if (subgroupElect()) subgroup_floats[gl_SubgroupID] = x;
    barrier();
    float largest = -3.0e38;
    for (uint s = 0; s < kSubgroups; ++s) largest = max(largest, subgroup_floats[s]);
    return largest;
}

uint range_size() { return (push.n_vocab + kGroups - 1) / kGroups; }

// llvmpipe ends all loops of an invocation, silently, after 65535 iterations in total. With top-k off there are 64 passes over the
// whole vocabulary, so what runs often is unrolled, in batches.
const uint kBatch = 8;

// Candidate i of the compacted list over all ranges.
uvec2 candidate(uint i) {
    uint low = 0;
    [[unroll]] for (int bit = 5; bit >= 0; --bit) {
        const uint middle = low + (1u << bit);
        if (middle < kGroups && first_of[middle] <= i) low = middle;
    }
    return candidates[low * range_size() + i - first_of[low]];
}

float penalty(uint id, float logit, uint n_penalised) {
    bool found = false;
    for (uint i = 0; i < n_penalised; i += kBatch)
        [[unroll]] for (uint k = 0; k < kBatch; ++k)
            found = found || (i + k < n_penalised && penalised[i + k] == id);
    if (!found) return logit;
    return logit > 0.0 ? logit / state.repeat_penalty : logit * state.repeat_penalty;
}

// The candidates of this workgroup's range, in token order.
void compact_range(uint n_penalised) {
    const uint begin = gl_WorkGroupID.x * range_size();
    const uint end = min(begin + range_size(), push.n_vocab);
    const float least = threshold[0];
    uint kept = 0;
    for (uint base = begin; base < end; base += gl_WorkGroupSize.x) {
        const uint id = base + gl_LocalInvocationIndex;
        float logit = -3.0e38;
        bool keep = false;
        if (id < end) {
            logit = penalty(id, logits[id], n_penalised);
            keep = logit >= least;
        }
        const uvec4 ballot = subgroupBallot(keep);
        barrier();
        if (subgroupElect()) subgroup_counts[gl_SubgroupID] = subgroupBallotBitCount(ballot);
        barrier();
        uint before = kept;
        for (uint s = 0; s < kSubgroups; ++s) {
            if (s < gl_SubgroupID) before += subgroup_counts[s];
            kept += subgroup_counts[s];
        }
        if (keep)
            candidates[begin + before + subgroupBallotExclusiveBitCount(ballot)] = uvec2(id, floatBitsToUint(logit));
    }
    if (gl_LocalInvocationIndex == 0) counts[gl_WorkGroupID.x] = kept;
}

// Largest key t such that at least `wanted` candidates have keys >= t.
uint key_with_count(uint n, uint wanted) {
    uint key = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const uint trial = key | (1u << bit);
        uint count = 0;
        for (uint first = walk_begin(); first < n; first += kBatch * walk_step()) {
            [[unroll]] for (uint k = 0; k < kBatch; ++k) {
                const uint i = first + k * walk_step();
                if (i < n && float_key(uintBitsToFloat(candidate(i).y)) >= trial) ++count;
            }
        }
        if (count_all(count) >= wanted) key = trial;
    }
    return key;
}

// Largest key t such that the candidates with keys >= t weigh at least `wanted`.
uint key_with_mass(uint n, float largest, float wanted) {
    uint key = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const uint trial = key | (1u << bit);
        float mass = 0.0;
        for (uint first = walk_begin(); first < n; first += kBatch * walk_step()) {
            [[unroll]] for (uint k = 0; k < kBatch; ++k) {
                const uint i = first + k * walk_step();
                if (i >= n) continue;
                const float logit = uintBitsToFloat(candidate(i).y);
                if (float_key(logit) >= trial) mass += exp(logit - largest);
            }
        }
        if (sum_all(mass) >= wanted) key = trial;
    }
    return key;
}

void main() {
    if (state.stopped != 0) return;
    const uint n_penalised =
        state.repeat_penalty == 1.0 ? 0 : min(min(state.repeat_last_n, state.n_recent), WINNOW_MAX_RECENT);
    for (uint i = gl_LocalInvocationIndex; i < n_penalised; i += gl_WorkGroupSize.x)
        penalised[i] = state.recent[(state.n_recent - 1 - i) % WINNOW_MAX_RECENT];
    barrier();
    compact_range(n_penalised);
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        arrived = atomicAdd(counters[0], 1);
        if (arrived == kGroups - 1) counters[0] = 0;
    }
    barrier();
    if (arrived != kGroups - 1) return;
    memoryBarrierBuffer();
    if (gl_LocalInvocationIndex == 0) {
        uint sum = 0;
        for (uint g = 0; g < kGroups; ++g) {
            first_of[g] = sum;
            sum += counts[g];
        }
        first_of[kGroups] = sum;
    }
    barrier();
    const uint n = first_of[kGroups];
    alone = n <= 8 * gl_SubgroupSize;

    float largest = -3.0e38;
    for (uint i = walk_begin(); i < n; i += walk_step())
        largest = max(largest, uintBitsToFloat(candidate(i).y));
    largest = max_all(largest);

    uint least = 0;
    const bool greedy = !(state.temperature > 0.0);
    if (greedy) {
        least = float_key(largest);
    } else {
        if (state.top_k > 0 && state.top_k < n) least = key_with_count(n, state.top_k);
        if (state.top_p < 1.0) {
            float mass = 0.0;
            for (uint i = walk_begin(); i < n; i += walk_step()) {
                const float logit = uintBitsToFloat(candidate(i).y);
                if (float_key(logit) >= least) mass += exp(logit - largest);
            }
            least = max(least, key_with_mass(n, largest, state.top_p * sum_all(mass)));
        }
        if (state.min_p > 0.0) least = max(least, float_key(largest + log(state.min_p)));
        least = min(least, float_key(largest));
    }

    // Each lane of the walk takes a contiguous part, so that the cumulative sum runs in token order.
    const float inverse_temperature = greedy ? 1.0 : 1.0 / state.temperature;
    const uint part = (n + walk_step() - 1) / walk_step();
    const uint begin = min(walk_begin() * part, n);
    const uint end = min(begin + part, n);
    float own = 0.0;
    for (uint i = begin; i < end; ++i) {
        const float logit = uintBitsToFloat(candidate(i).y);
        if (float_key(logit) >= least) own += exp((logit - largest) * inverse_temperature);
    }
    float before = subgroupExclusiveAdd(own);
    float total = subgroupAdd(own);
    if (!alone) {
        barrier();
        if (subgroupElect()) subgroup_floats[gl_SubgroupID] = total;
        barrier();
        total = 0.0;
        for (uint s = 0; s < kSubgroups; ++s) {
            if (s < gl_SubgroupID) before += subgroup_floats[s];
            total += subgroup_floats[s];
        }
    }
    // Greedy keeps the tokens that tie for the largest logit; the draw 0 takes the lowest id.
    const float draw = greedy ? 0.0
                              : philox_uniform(uvec2(state.seed_low, state.seed_high), state.rng_counter) * total;
    // The walker whose part holds the draw; rounding at the very end is given to the last part with weight.
    const bool holds = own > 0.0 && before <= draw;
    const uint walker = walk_begin();
    uint last = holds ? walker : 0;
    last = subgroupMax(last);
    if (!alone) {
        barrier();
        if (subgroupElect()) subgroup_counts[gl_SubgroupID] = last;
        barrier();
        last = 0;
        for (uint s = 0; s < kSubgroups; ++s) last = max(last, subgroup_counts[s]);
    }
    if (walker != last || (alone && gl_SubgroupID != 0)) return;

    float sum = before;
    uint token = 0;
    for (uint i = begin; i < end; ++i) {
        const uvec2 c = candidate(i);
        const float logit = uintBitsToFloat(c.y);
        if (float_key(logit) < least) continue;
        if (sum > draw) break;  // the previous one holds the draw
        token = c.x;
        sum += exp((logit - largest) * inverse_temperature);
    }

    ring[1 + state.n_generated % WINNOW_TOKEN_RING] = token;
    const uint n_generated = state.n_generated + 1;
    ring[0] = n_generated;
    state.recent[state.n_recent % WINNOW_MAX_RECENT] = token;
    state.n_recent += 1;
    state.rng_counter += 1;
    state.n_generated = n_generated;
    state.token = token;
    const uint position = state.position + 1;
    bool stop = n_generated >= state.n_limit || position >= state.n_capacity;
    for (uint i = 0; i < state.n_eog; ++i) stop = stop || state.eog[i] == token;
    state.position = position;
    if (stop) state.stopped = 1;
}
