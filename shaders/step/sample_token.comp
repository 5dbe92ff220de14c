#version 460
// SPDX-License-Identifier: Apache-2.0
// Computes: the next token. Filters in the order repetition penalty, top-k, top-p, min-p, temperature; then one draw by
// inverse cumulative probability in token order. Appends it to the ring and advances the state. A logit that no
// survivor of top-k or min-p lies below is found first, from the maxima that the logits stage left: the K-th largest
// maximum is no larger than the K-th largest logit, and a penalty that lowers n tokens is allowed for by K + n. Every
// workgroup finds it by itself (16 KB to read), which costs less than a dispatch for it. Greedy decoding needs nothing
// but the maxima and the logits under the largest.
// One workgroup handles: one range of the vocabulary, kept in order; the last to arrive finishes the job.
// Logits that are not finite come from a damaged model: then WINNOW_NO_TOKEN goes to the ring and the answer stops.
// Bindings: 0 state; 1 logits f32 [n_vocab]; 2 maxima f32 [n_maxima]; 3 candidates uvec2 (id, logit bits)
// [groups][range];
//   4 counts uint [groups]; 5 counters (one); 6 token ring (host visible): uint [0] = tokens written, then the ring
// Needs: subgroup arithmetic and ballot.
#extension GL_EXT_scalar_block_layout : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_GOOGLE_include_directive : require

layout(local_size_x_id = 0) in;
layout(constant_id = 1) const uint kSubgroups = 8;
layout(constant_id = 2) const uint kGroups = 64;  // at most 64
layout(constant_id = 0) const uint kSize = 64;    // invocations

#define STATE_BINDING 0
#define STATE_WRITE
#include "shaders/common/interface.h"
#include "shaders/common/step_state.glsl"
#include "shaders/common/sampling.glsl"

layout(push_constant, scalar) uniform Push { SamplePush push; };
layout(set = 0, binding = 1, scalar) restrict readonly buffer Logits { float logits[]; };
layout(set = 0, binding = 2, scalar) restrict readonly buffer Maxima { float maxima[]; };
layout(set = 0, binding = 3, scalar) coherent buffer Candidates { uvec2 candidates[]; };
layout(set = 0, binding = 4, scalar) coherent buffer Counts { uint counts[]; };
layout(set = 0, binding = 5, scalar) coherent buffer Counters { uint counters[]; };
layout(set = 0, binding = 6, scalar) restrict writeonly buffer Ring { uint ring[]; };

// The histogram of the maxima: 512 bins of 1/16 nat below the largest. Afterwards a bit for each of kMarked ids: those
// that are penalised.
const uint kBins = 512;
const uint kMarked = 32 * kBins;  // a multiple of kSize
const float kBinsPerNat = 16.0;
const float kNone = -3.0e38;

shared uint subgroup_counts[kSubgroups];
shared float subgroup_floats[kSubgroups];
shared uint histogram[kBins];
shared float shared_least;
shared uint first_of[kGroups + 1];
shared uint arrived;
shared float few_logits[kSize];
shared float few_weights[kSize];

// llvmpipe ends all loops of an invocation, silently, after 65535 iterations in total. With every filter off there are
// 32 passes over the whole vocabulary, so what runs often is unrolled, in batches.
const uint kBatch = 8;

float sum_all(float x) {
    x = subgroupAdd(x);
    barrier();
    if (subgroupElect()) subgroup_floats[gl_SubgroupID] = x;
    barrier();
    float total = 0.0;
    for (uint s = 0; s < kSubgroups; ++s) total += subgroup_floats[s];
    return total;
}
uint count_all(uint x) {
    x = subgroupAdd(x);
    barrier();
    if (subgroupElect()) subgroup_counts[gl_SubgroupID] = x;
    barrier();
    uint total = 0;
    for (uint s = 0; s < kSubgroups; ++s) total += subgroup_counts[s];
    return total;
}
float max_all(float x) {
    x = subgroupMax(x);
    barrier();
    if (subgroupElect()) subgroup_floats[gl_SubgroupID] = x;
    barrier();
    float largest = kNone;
    for (uint s = 0; s < kSubgroups; ++s) largest = max(largest, subgroup_floats[s]);
    return largest;
}

// A logit that whatever top-k and min-p keep does not lie below; kNone when they promise nothing.
void find_least(uint n_penalised) {
    const uint top_k = state.temperature > 0.0 ? state.top_k : 1;
    const bool by_rank = top_k != 0 && top_k + n_penalised <= push.n_maxima;
    // top-p comes before min-p and weighs everything, so min-p promises something only without it.
    const bool by_share = state.temperature > 0.0 && state.top_p >= 1.0 && state.min_p > 0.0 &&
                          1 + n_penalised <= push.n_maxima;
    if (!by_rank && !by_share) {
        if (gl_LocalInvocationIndex == 0) shared_least = kNone;
        barrier();
        return;
    }
    for (uint i = gl_LocalInvocationIndex; i < kBins; i += gl_WorkGroupSize.x) histogram[i] = 0;
    float largest = kNone;
    for (uint first = gl_LocalInvocationIndex; first < push.n_maxima; first += kBatch * gl_WorkGroupSize.x)
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            const uint i = first + k * gl_WorkGroupSize.x;
            largest = max(largest, i < push.n_maxima ? maxima[i] : kNone);
        }
    largest = max_all(largest);
    for (uint first = gl_LocalInvocationIndex; first < push.n_maxima; first += kBatch * gl_WorkGroupSize.x)
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            const uint i = first + k * gl_WorkGroupSize.x;
            if (i >= push.n_maxima) continue;
            // Whatever lies too far below, minus infinity too, goes to the last bin, which promises nothing.
            const float bin = (largest - maxima[i]) * kBinsPerNat;
            atomicAdd(histogram[bin < float(kBins - 1) ? uint(bin) : kBins - 1], 1);
        }
    barrier();
    if (gl_SubgroupID == 0) {
        uint before = 0;
        uint bin_rank = kBins, bin_share = kBins;  // where top_k + n and 1 + n maxima have been seen
        for (uint base = 0; base < kBins; base += gl_SubgroupSize) {
            const uint bin = base + gl_SubgroupInvocationID;
            const uint here = bin < kBins ? histogram[bin] : 0;
            const uint seen = before + subgroupInclusiveAdd(here);
            bin_rank = min(bin_rank, subgroupMin(seen >= top_k + n_penalised ? bin : kBins));
            bin_share = min(bin_share, subgroupMin(seen >= 1 + n_penalised ? bin : kBins));
            before += subgroupAdd(here);
            if (bin_rank < kBins && bin_share < kBins) break;
        }
        // Half a bin more than its lower edge: rounding may have put a maximum one step too high.
        float least = kNone;
        if (by_rank && bin_rank < kBins - 1) least = max(least, largest - (float(bin_rank) + 1.5) / kBinsPerNat);
        if (by_share && bin_share < kBins - 1)
            least = max(least, largest - (float(bin_share) + 1.5) / kBinsPerNat + log(state.min_p));
        if (subgroupElect()) shared_least = least;
    }
    barrier();
}

uint range_size() { return (push.n_vocab + kGroups - 1) / kGroups; }

// Candidate i of the compacted list over all ranges.
uvec2 candidate(uint i) {
    uint low = 0;
    [[unroll]] for (int bit = 5; bit >= 0; --bit) {
        const uint middle = low + (1u << bit);
        if (middle < kGroups && first_of[middle] <= i) low = middle;
    }
    return candidates[low * range_size() + i - first_of[low]];
}

// Marks the recent tokens among the kMarked ids from `first` on: once for all of them, as looking for each id in up to
// 1,024 recent ones would be most of the work (and more passes of a loop than llvmpipe allows).
void mark_penalised(uint first, uint n_penalised) {
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < kBins; i += gl_WorkGroupSize.x) histogram[i] = 0;
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < n_penalised; i += gl_WorkGroupSize.x) {
        const uint at = state.recent[(state.n_recent - 1 - i) % WINNOW_MAX_RECENT] - first;
        if (at < kMarked) atomicOr(histogram[at / 32], 1u << at % 32);
    }
    barrier();
}

// Of the id that is `at` places into the marked ones.
float penalty(uint at, float logit) {
    if ((histogram[at / 32] >> at % 32 & 1u) == 0) return logit;
    return logit > 0.0 ? logit / state.repeat_penalty : logit * state.repeat_penalty;
}

// The candidates of this workgroup's range, in token order.
void compact_range(uint n_penalised) {
    const uint begin = gl_WorkGroupID.x * range_size();
    const uint end = min(begin + range_size(), push.n_vocab);
    const float least = shared_least;
    uint kept = 0;
    for (uint base = begin; base < end; base += gl_WorkGroupSize.x) {
        const uint id = base + gl_LocalInvocationIndex;
        const uint at = (base - begin) % kMarked;
        if (n_penalised != 0 && at == 0) mark_penalised(base, n_penalised);
        float logit = kNone;
        bool keep = false;
        if (id < end) {
            logit = logits[id];
            if (n_penalised != 0) logit = penalty(at + gl_LocalInvocationIndex, logit);
            logit = finite_or_mark(logit);
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

// Each invocation takes a contiguous part of the candidates, so that a cumulative sum runs in token order.
uint part_begin, part_end;
uint batch_id[kBatch];
float batch_logit[kBatch];

void load_batch(uint first) {
    [[unroll]] for (uint k = 0; k < kBatch; ++k) {
        uvec2 c = uvec2(0, floatBitsToUint(kNone));
        if (first + k < part_end) c = candidate(first + k);
        batch_id[k] = c.x;
        batch_logit[k] = uintBitsToFloat(c.y);
    }
}

// Largest key t such that at least `wanted` candidates have keys >= t.
uint key_with_count(uint wanted) {
    uint key = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const uint trial = key | (1u << bit);
        uint count = 0;
        for (uint first = part_begin; first < part_end; first += kBatch) {
            load_batch(first);
            [[unroll]] for (uint k = 0; k < kBatch; ++k)
                if (first + k < part_end && float_key(batch_logit[k]) >= trial) ++count;
        }
        if (count_all(count) >= wanted) key = trial;
    }
    return key;
}

// What the candidates with keys >= t weigh, in this walker's part.
float part_mass(uint least, float largest) {
    float mass = 0.0;
    for (uint first = part_begin; first < part_end; first += kBatch) {
        load_batch(first);
        [[unroll]] for (uint k = 0; k < kBatch; ++k)
            if (first + k < part_end && float_key(batch_logit[k]) >= least) mass += exp(batch_logit[k] - largest);
    }
    return mass;
}

// Largest key t such that the candidates with keys >= t weigh at least `wanted`.
uint key_with_mass(float largest, float wanted) {
    uint key = 0;
    for (int bit = 31; bit >= 0; --bit) {
        const uint trial = key | (1u << bit);
        if (sum_all(part_mass(trial, largest)) >= wanted) key = trial;
    }
    return key;
}

// Appends the token and moves the state on to it. One invocation.
void advance(uint token) {
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

// In place of advance(). One invocation.
void give_up() {
    ring[1 + state.n_generated % WINNOW_TOKEN_RING] = WINNOW_NO_TOKEN;
    ring[0] = state.n_generated + 1;
    state.n_generated += 1;
    state.stopped = 1;
}
bool is_sound(float largest) { return largest > kNone && largest < kNotFinite; }

uint min_all(uint x) {
    x = subgroupMin(x);
    barrier();
    if (subgroupElect()) subgroup_counts[gl_SubgroupID] = x;
    barrier();
    uint least = 0xffffffffu;
    for (uint s = 0; s < kSubgroups; ++s) least = min(least, subgroup_counts[s]);
    return least;
}

// The lowest id with the largest logit, by way of the maxima: no other workgroup is needed.
void take_largest() {
    float largest = kNone;
    uint at = 0xffffffffu;
    for (uint first = gl_LocalInvocationIndex; first < push.n_maxima; first += kBatch * gl_WorkGroupSize.x)
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            const uint i = first + k * gl_WorkGroupSize.x;
            const float here = i < push.n_maxima ? maxima[i] : kNone;
            if (here > largest) {
                largest = here;
                at = i;
            }
        }
    const float own = largest;
    largest = max_all(largest);
    if (!is_sound(largest)) {
        if (gl_LocalInvocationIndex == 0) give_up();
        return;
    }
    at = min(min_all(own == largest ? at : 0xffffffffu), push.n_maxima - 1);
    const uint begin = at * push.rows_per_maximum;
    uint token = 0xffffffffu;
    for (uint i = gl_LocalInvocationIndex; i < push.rows_per_maximum; i += gl_WorkGroupSize.x)
        if (begin + i < push.n_vocab && logits[begin + i] == largest) token = min(token, begin + i);
    token = min(min_all(token), push.n_vocab - 1);
    if (gl_LocalInvocationIndex == 0) advance(token);
}

void main() {
    if (state.stopped != 0) return;
    const uint n_penalised =
        state.repeat_penalty == 1.0 ? 0 : min(min(state.repeat_last_n, state.n_recent), WINNOW_MAX_RECENT);
    if (!(state.temperature > 0.0) && n_penalised == 0) {
        if (gl_WorkGroupID.x == 0) take_largest();
        return;
    }
    find_least(n_penalised);
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
    if (gl_SubgroupID == 0) {
        uint sum = 0;
        for (uint base = 0; base < kGroups; base += gl_SubgroupSize) {
            const uint g = base + gl_SubgroupInvocationID;
            const uint here = g < kGroups ? counts[g] : 0;
            const uint before = sum + subgroupExclusiveAdd(here);
            if (g < kGroups) first_of[g] = before;
            sum += subgroupAdd(here);
        }
        if (subgroupElect()) first_of[kGroups] = sum;
    }
    barrier();
    const uint n = first_of[kGroups];
    const uint walker = gl_LocalInvocationIndex;
    const bool few = n <= kSize;
    const uint part = few ? 1 : (n + kSize - 1) / kSize;
    part_begin = min(walker * part, n);
    part_end = min(part_begin + part, n);
    float largest = kNone;
    for (uint first = part_begin; first < part_end; first += kBatch) {
        load_batch(first);
        [[unroll]] for (uint k = 0; k < kBatch; ++k) largest = max(largest, batch_logit[k]);
    }
    largest = max_all(largest);
    if (!is_sound(largest)) {
        if (walker == 0) give_up();
        return;
    }

    uint least = 0;
    const bool greedy = !(state.temperature > 0.0);
    const bool by_count = !greedy && state.top_k > 0 && state.top_k < n;
    const bool by_mass = !greedy && state.top_p < 1.0;
    if (few) {
        // One candidate each, held in batch[0]: how many lie above it, and what they weigh, decides for itself.
        const bool own_one = part_begin < part_end;
        if (own_one) {
            few_logits[walker] = batch_logit[0];
            few_weights[walker] = exp(batch_logit[0] - largest);
        }
        barrier();
        uint n_above = 0;
        float mass_above = 0.0;
        if (by_count || by_mass) {
            for (uint first = 0; first < n; first += kBatch)
                [[unroll]] for (uint k = 0; k < kBatch; ++k) {
                    const uint i = min(first + k, n - 1);
                    if (first + k < n && few_logits[i] > batch_logit[0]) {
                        ++n_above;
                        mass_above += few_weights[i];
                    }
                }
        }
        bool keep = own_one && (!by_count || n_above < state.top_k);
        const float mass = by_mass ? sum_all(keep ? few_weights[walker] : 0.0) : 0.0;
        if (by_mass) keep = keep && mass_above < state.top_p * mass;
        if (!keep) batch_logit[0] = kNone;
        least = float_key(kNone) + 1;
    } else {
        if (by_count) least = key_with_count(state.top_k);
        if (by_mass) least = max(least, key_with_mass(largest, state.top_p * sum_all(part_mass(least, largest))));
    }
    if (greedy) least = float_key(largest);
    else if (state.min_p > 0.0) least = max(least, float_key(largest + log(state.min_p)));
    least = min(least, float_key(largest));

    const float inverse_temperature = greedy ? 1.0 : 1.0 / state.temperature;
    float own = 0.0;
    for (uint first = part_begin; first < part_end; first += kBatch) {
        if (!few) load_batch(first);
        [[unroll]] for (uint k = 0; k < kBatch; ++k)
            if (first + k < part_end && float_key(batch_logit[k]) >= least)
                own += exp((batch_logit[k] - largest) * inverse_temperature);
    }
    float before = subgroupExclusiveAdd(own);
    float total = subgroupAdd(own);
    barrier();
    if (subgroupElect()) subgroup_floats[gl_SubgroupID] = total;
    barrier();
    total = 0.0;
    for (uint s = 0; s < kSubgroups; ++s) {
        if (s < gl_SubgroupID) before += subgroup_floats[s];
        total += subgroup_floats[s];
    }
    // Greedy keeps the tokens that tie for the largest logit; the draw 0 takes the lowest id.
    const float draw = greedy ? 0.0
                              : philox_uniform(uvec2(state.seed_low, state.seed_high), state.rng_counter) * total;
    // The walker whose part holds the draw; rounding at the very end is given to the last part with weight.
    const bool holds = own > 0.0 && before <= draw;
    uint last = holds ? walker : 0;
    last = subgroupMax(last);
    barrier();
    if (subgroupElect()) subgroup_counts[gl_SubgroupID] = last;
    barrier();
    last = 0;
    for (uint s = 0; s < kSubgroups; ++s) last = max(last, subgroup_counts[s]);
    if (walker != last) return;

    float sum = before;
    uint token = 0;
    bool found = false;
    for (uint first = part_begin; first < part_end && !found; first += kBatch) {
        if (!few) load_batch(first);
        [[unroll]] for (uint k = 0; k < kBatch; ++k) {
            if (first + k >= part_end || float_key(batch_logit[k]) < least || found) continue;
            if (sum > draw) {
                found = true;  // the previous one holds the draw
            } else {
                token = batch_id[k];
                sum += exp((batch_logit[k] - largest) * inverse_temperature);
            }
        }
    }

    advance(token);
}
