// SPDX-License-Identifier: Apache-2.0
// The budget rule: from scores of rows to the smallest set that satisfies the rule, by integer histograms, so that the
// result does not depend on any order. Runs in one workgroup: the last to arrive, or each for itself. Weight of a row
// for head g is w_g = exp(score - lse_g) per token; rows are ranked by the pooled weight (softmax before pooling: raw
// scores would let loud heads win). Two rounds of 256 bins: 1/8 nat, then 1/2048 nat inside the bin that the cut falls
// into; or, where many workgroups count (select_rows, select_attend), one round of finer bins. Ties go to lower ids.
// The includer defines kGroup, kGroupSize, kSubgroups, kRule, kPool, kFinal, kBins, kMaxRows (that one range has) and
// load_rows().
#ifndef WINNOW_SELECT_GLSL
#define WINNOW_SELECT_GLSL
#include "shaders/common/subgroup_lanes.glsl"

const float kRanksPerNat = 2048.0;
const uint kRanksPerBin = 65536 / kBins;  // in the first round
const float kMassUnit = 1073741824.0;  // 2^30: one head's whole attention
const uint kOutside = 0xffffffffu;
// One ranking of the rows for all heads of the group, or one for each; a row is kept when any ranking keeps it.
const uint kRankings = kPool == WINNOW_POOL_EACH ? kGroup : 1;

shared uint select_count[kRankings * kBins];
shared uint select_cut[kRankings];           // bin of the cut in this round
shared uint select_before_count[kRankings];  // tokens in the bins before it
shared uint select_before_mass[kGroup];

// Nobody asks how much is kept: a budget of tokens at the last level.
const bool kNeedsMass = kRule == WINNOW_RULE_TOP_P || kFinal == 0;

shared uint select_mass[kNeedsMass ? kGroup * kBins : 1];

// Consecutive rows that an invocation holds at once, so that their loads overlap and the rounds after the first need
// none.
#ifdef HELD_ROWS
const uint kHeld = HELD_ROWS;
#else
const uint kHeld = kNeedsMass ? 8 : 16;
#endif
const uint kTile = kGroupSize * kHeld;
const bool kOneTile = kMaxRows <= kTile;  // the compiler need not see loops over tiles
// Of rows first .. first + kHeld: tokens (0 past the end), ranks, and where mass counts the weight per token for each
// head as natural logarithm (<= about 0).
uint held_tokens[kHeld];
uint held_rank[kHeld * kRankings];
float held_weight[kNeedsMass ? kHeld * kGroup : 1];

// Rank by pooled weight, a logarithm: smaller is better, kOutside when it may not be kept at all. 16 bits: bin *
// kRanksPerBin + bin of the second round.
uint rank_of(float pooled, float threshold) {
    if (threshold > 0.0 && pooled < log(threshold)) return kOutside;
    return min(uint(max(-pooled, 0.0) * kRanksPerNat), 65535u);
}

// Takes row k with its tokens and the weights of all heads.
void hold_row(uint k, uint n_tokens, float weight[kGroup], float threshold) {
    held_tokens[k] = n_tokens;
    if (kNeedsMass)
        [[unroll]] for (uint g = 0; g < kGroup; ++g) held_weight[k * kGroup + g] = weight[g];
    if (kPool == WINNOW_POOL_EACH) {
        [[unroll]] for (uint r = 0; r < kRankings; ++r) held_rank[k * kRankings + r] = n_tokens == 0 ? kOutside : rank_of(weight[r], threshold);
        return;
    }
    float pooled = weight[0];
    if (kPool == WINNOW_POOL_MEAN) {
        float sum = 0.0;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) sum += exp(weight[g]);
        pooled = log(max(sum / float(kGroup), 1.0e-30));
    } else {
        [[unroll]] for (uint g = 1; g < kGroup; ++g) pooled = max(pooled, weight[g]);
    }
    held_rank[k * kRankings] = n_tokens == 0 ? kOutside : rank_of(pooled, threshold);
}

// Holds rows first .. first + kHeld of those before `end`; the includer defines it. One tile needs loading once, more
// in every round.
void load_rows(uint first, uint end, float threshold);

uint mass_of(float log_weight, uint n_tokens) { return uint(min(exp(log_weight) * float(n_tokens), 1.0) * kMassUnit + 0.5); }

// Sums before each bin, over the rankings' tokens and then, where anybody asks, each head's mass.
const uint kScans = kRankings + (kNeedsMass ? kGroup : 0);
const uint kBinsEach = (kBins + kGroupSize - 1) / kGroupSize;  // bins of an invocation; the last ones may have none
shared uint select_scan[(kScans > 2 ? kScans : 2) * kSubgroups];

// Of the sums of the subgroups at `first`: those before this subgroup, and all.
uvec2 sums_of_subgroups(uint first) {
    uvec2 sums = uvec2(0);
    for (uint s = 0; s < kSubgroups; s += kSubgroupLanes) {  // one turn in common cases
        const uint at = s + gl_SubgroupInvocationID;
        const uint here = at < kSubgroups ? select_scan[first + at] : 0;
        sums += uvec2(subgroupAdd(at < gl_SubgroupID ? here : 0), subgroupAdd(here));
    }
    return sums;
}

uint bin_value(uint scan, uint bin) {
    if (bin >= kBins) return 0;
    return scan < kRankings ? select_count[scan * kBins + bin] : select_mass[(scan - kRankings) * kBins + bin];
}

// Finds, for every ranking, the first bin at which the rule is satisfied, and what lies before it. Called by the whole
// workgroup.
void find_cuts(uint round, uint coarse[kRankings], HeadPolicy policy) {
    const uint first_bin = gl_LocalInvocationIndex * kBinsEach;
    uint before[kScans];
    [[unroll]] for (uint v = 0; v < kScans; ++v) {
        uint own = 0;
        [[unroll]] for (uint i = 0; i < kBinsEach; ++i) own += bin_value(v, first_bin + i);
        const uint through = subgroupInclusiveAdd(own);
        before[v] = through - own;
        if (gl_SubgroupInvocationID == gl_SubgroupSize - 1) select_scan[v * kSubgroups + gl_SubgroupID] = through;
    }
    if (gl_LocalInvocationIndex < kRankings) select_cut[gl_LocalInvocationIndex] = kBins;
    barrier();
    uint all[kScans];
    [[unroll]] for (uint v = 0; v < kScans; ++v) {
        const uint so_far = v < kRankings ? select_before_count[v] : select_before_mass[v - kRankings];
        const uvec2 sums = sums_of_subgroups(v * kSubgroups);
        before[v] += so_far + sums.x;
        all[v] = so_far + sums.y;
    }
    // What lies before this invocation's first bin that satisfies the rule.
    uint cut[kRankings];
    [[unroll]] for (uint r = 0; r < kRankings; ++r) cut[r] = kBins;
    uint cut_before[kScans];
    [[unroll]] for (uint i = 0; i < kBinsEach; ++i) {
        const uint bin = first_bin + i;
        [[unroll]] for (uint r = 0; r < kRankings; ++r) {
            const uint count = before[r] + bin_value(r, bin);
            bool reached = kRule != WINNOW_RULE_THRESHOLD;
            if (kRule == WINNOW_RULE_TOP_K) reached = count >= policy.budget_max;
            if (kRule == WINNOW_RULE_TOP_P)  // every head that the ranking answers for
                [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                    reached = reached && float(before[kRankings + g] + bin_value(kRankings + g, bin)) >= policy.mass * kMassUnit;
            reached = (reached && count >= policy.budget_min) || count >= policy.budget_max;
            if (bin < kBins && cut[r] == kBins && reached) {
                cut[r] = bin;
                cut_before[r] = before[r];
                if (kNeedsMass)
                    [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g) cut_before[kRankings + g] = before[kRankings + g];
            }
        }
        [[unroll]] for (uint v = 0; v < kScans; ++v) before[v] += bin_value(v, bin);
    }
    [[unroll]] for (uint r = 0; r < kRankings; ++r) {
        const uint first = subgroupMin(cut[r]);  // all invocations after the cut have one: a whole workgroup at one word takes long
        if (subgroupElect() && first < kBins) atomicMin(select_cut[r], first);
    }
    barrier();
    [[unroll]] for (uint r = 0; r < kRankings; ++r) {
        if (round == 1 && coarse[r] == kBins) continue;
        const bool none = select_cut[r] == kBins && gl_LocalInvocationIndex == 0;  // everything that is not outside
        if (!none && (cut[r] == kBins || cut[r] != select_cut[r])) continue;
        select_before_count[r] = none ? all[r] : cut_before[r];
        if (kNeedsMass)
            [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                select_before_mass[g] = none ? all[kRankings + g] : cut_before[kRankings + g];
    }
    barrier();
}

// Counts the bins of rows [begin, end). `round` 0: bins over everything; 1: inside `coarse` of each ranking.
void count_bins(uint round, uint coarse[kRankings], uint begin, uint end, float threshold) {
    for (uint i = gl_LocalInvocationIndex; i < kBins; i += kGroupSize) {
        for (uint r = 0; r < kRankings; ++r) select_count[r * kBins + i] = 0;
        if (kNeedsMass)
            for (uint g = 0; g < kGroup; ++g) select_mass[g * kBins + i] = 0;
    }
    barrier();
    uint base = begin;
    do {
        if (round == 0 || (!kOneTile && end - begin > kTile)) load_rows(base + gl_LocalInvocationIndex * kHeld, end, threshold);
        [[unroll]] for (uint r = 0; r < kRankings; ++r) {
            // Rows of a bin that follow each other are added at once: where attention is flat, all invocations want the
            // same few bins.
            uint run_bin = kBins, run_tokens = 0;
            uint run_mass[kGroup];
            [[unroll]] for (uint k = 0; k <= kHeld; ++k) {
                uint bin = kBins;
                if (k < kHeld) {
                    const uint rank = held_rank[k * kRankings + r];
                    if (rank != kOutside && (round == 0 || rank / kRanksPerBin == coarse[r]))
                        bin = round == 0 ? rank / kRanksPerBin : rank % kRanksPerBin;
                }
                if (bin != run_bin) {
                    if (run_bin < kBins) {
                        atomicAdd(select_count[r * kBins + run_bin], run_tokens);
                        if (kNeedsMass)
                            [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                                atomicAdd(select_mass[g * kBins + run_bin], run_mass[g]);
                    }
                    run_bin = bin;
                    run_tokens = 0;
                    [[unroll]] for (uint g = 0; g < kGroup; ++g) run_mass[g] = 0;
                }
                if (bin == kBins) continue;
                run_tokens += held_tokens[k];
                if (kNeedsMass)
                    [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                        run_mass[g] += mass_of(held_weight[k * kGroup + g], held_tokens[k]);
            }
        }
        base += kTile;
    } while (!kOneTile && base < end);
    barrier();
}

// One round of one workgroup over rows [0, n_rows).
void select_round(uint round, uint coarse[kRankings], uint n_rows, HeadPolicy policy) {
    count_bins(round, coarse, 0, n_rows, policy.threshold);
    find_cuts(round, coarse, policy);
}

#endif
