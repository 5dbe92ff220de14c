// SPDX-License-Identifier: Apache-2.0
// The budget rule: from scores of rows to the smallest set that satisfies the rule, by integer histograms, so that the
// result does not depend on any order. Runs in one workgroup (the last to arrive). Weight of a row for head g is
// w_g = exp(score - lse_g) per token; rows are ranked by the pooled weight (softmax before pooling: raw scores would let loud
// heads win). Two rounds of 256 bins: 1/8 nat, then 1/2048 nat inside the bin that the cut falls into; ties go to lower ids.
// The includer defines kGroup, kGroupSize, kSubgroups, kRule, kPool, kFinal and load_rows().
#ifndef WINNOW_SELECT_GLSL
#define WINNOW_SELECT_GLSL

const float kBinsPerNat = 8.0;
const float kMassUnit = 1073741824.0;  // 2^30: one head's whole attention
const uint kOutside = 0xffffffffu;
// One ranking of the rows for all heads of the group, or one for each; a row is kept when any ranking keeps it.
const uint kRankings = kPool == WINNOW_POOL_EACH ? kGroup : 1;

shared uint select_mass[kGroup * 256];
shared uint select_count[kRankings * 256];
shared uint select_cut[kRankings];           // bin of the cut in this round
shared uint select_before_count[kRankings];  // tokens in the bins before it
shared uint select_before_mass[kGroup];

// Nobody asks how much is kept: a budget of tokens at the last level.
const bool kNeedsMass = kRule == WINNOW_RULE_TOP_P || kFinal == 0;

// Consecutive rows that an invocation holds at once, so that their loads overlap and the rounds after the first need none.
const uint kHeld = kNeedsMass ? 8 : 16;
const uint kTile = kGroupSize * kHeld;
// Of rows first .. first + kHeld: tokens (0 past the end), ranks, and where mass counts the weight per token for each head as natural
// logarithm (<= about 0).
uint held_tokens[kHeld];
uint held_rank[kHeld * kRankings];
float held_weight[kNeedsMass ? kHeld * kGroup : 1];

// Rank by pooled weight, a logarithm: smaller is better, kOutside when it may not be kept at all. 16 bits: bin * 256 + bin of the
// second round.
uint rank_of(float pooled, float threshold) {
    if (threshold > 0.0 && pooled < log(threshold)) return kOutside;
    return min(uint(max(-pooled, 0.0) * kBinsPerNat * 256.0), 65535u);
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

// Holds rows first .. first + kHeld; the includer defines it.
void load_rows(uint first, uint n_rows, float threshold);
// Rows of this invocation in the tile at `base`: loaded once where there is one tile, else each time.
void hold_rows(bool first_time, uint base, uint n_rows, float threshold) {
    if (first_time || n_rows > kTile) load_rows(base + gl_LocalInvocationIndex * kHeld, n_rows, threshold);
}

uint mass_of(float log_weight, uint n_tokens) { return uint(min(exp(log_weight) * float(n_tokens), 1.0) * kMassUnit + 0.5); }

// Sums before each bin, over the rankings' tokens and then, where anybody asks, each head's mass.
const uint kScans = kRankings + (kNeedsMass ? kGroup : 0);
const uint kBinsEach = (256 + kGroupSize - 1) / kGroupSize;  // bins of an invocation; the last ones may have none
shared uint select_scan[kScans * kSubgroups];

uint bin_value(uint scan, uint bin) {
    if (bin >= 256) return 0;
    return scan < kRankings ? select_count[scan * 256 + bin] : select_mass[(scan - kRankings) * 256 + bin];
}

// Finds, for every ranking, the first bin at which the rule is satisfied, and what lies before it. Called by the whole workgroup.
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
    if (gl_LocalInvocationIndex < kRankings) select_cut[gl_LocalInvocationIndex] = 256;
    barrier();
    uint all[kScans];
    [[unroll]] for (uint v = 0; v < kScans; ++v) {
        all[v] = v < kRankings ? select_before_count[v] : select_before_mass[v - kRankings];
        before[v] += all[v];
        for (uint s = 0; s < kSubgroups; ++s) {
            const uint sum = select_scan[v * kSubgroups + s];
            if (s < gl_SubgroupID) before[v] += sum;
            all[v] += sum;
        }
    }
    // What lies before this invocation's first bin that satisfies the rule.
    uint cut[kRankings];
    [[unroll]] for (uint r = 0; r < kRankings; ++r) cut[r] = 256;
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
            if (bin < 256 && cut[r] == 256 && reached) {
                cut[r] = bin;
                cut_before[r] = before[r];
                if (kNeedsMass)
                    [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g) cut_before[kRankings + g] = before[kRankings + g];
            }
        }
        [[unroll]] for (uint v = 0; v < kScans; ++v) before[v] += bin_value(v, bin);
    }
    [[unroll]] for (uint r = 0; r < kRankings; ++r)
        if (cut[r] < 256) atomicMin(select_cut[r], cut[r]);
    barrier();
    [[unroll]] for (uint r = 0; r < kRankings; ++r) {
        if (round == 1 && coarse[r] == 256) continue;
        const bool none = select_cut[r] == 256 && gl_LocalInvocationIndex == 0;  // everything that is not outside
        if (!none && (cut[r] == 256 || cut[r] != select_cut[r])) continue;
        select_before_count[r] = none ? all[r] : cut_before[r];
        if (kNeedsMass)
            [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                select_before_mass[g] = none ? all[kRankings + g] : cut_before[kRankings + g];
    }
    barrier();
}

// One round over rows [0, n_rows): counts bins, finds the first bin at which the rule is satisfied.
// `round` 0: bins of 1/8 nat over everything; 1: inside `coarse` of each ranking, on top of what lies before it.
void select_round(uint round, uint coarse[kRankings], uint n_rows, HeadPolicy policy) {
    for (uint i = gl_LocalInvocationIndex; i < 256; i += kGroupSize) {
        for (uint r = 0; r < kRankings; ++r) select_count[r * 256 + i] = 0;
        if (kNeedsMass)
            for (uint g = 0; g < kGroup; ++g) select_mass[g * 256 + i] = 0;
    }
    barrier();
    for (uint base = 0; base < n_rows; base += kTile) {
        hold_rows(round == 0, base, n_rows, policy.threshold);
        [[unroll]] for (uint k = 0; k < kHeld; ++k) {
            [[unroll]] for (uint r = 0; r < kRankings; ++r) {
                const uint rank = held_rank[k * kRankings + r];
                if (rank == kOutside || (round == 1 && rank / 256 != coarse[r])) continue;
                const uint bin = round == 0 ? rank / 256 : rank % 256;
                atomicAdd(select_count[r * 256 + bin], held_tokens[k]);
                if (kNeedsMass)
                    [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                        atomicAdd(select_mass[g * 256 + bin], mass_of(held_weight[k * kGroup + g], held_tokens[k]));
            }
        }
    }
    barrier();
    find_cuts(round, coarse, policy);
}

#endif
