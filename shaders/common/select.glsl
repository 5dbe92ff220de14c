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

// Consecutive rows that an invocation holds at once, so that their loads overlap.
const uint kHeld = 8;
const uint kTile = kGroupSize * kHeld;
// Of rows first .. first + kHeld: tokens (0 past the end) and the weight per token for each head as natural logarithm (<= about 0).
uint held_tokens[kHeld];
float held_weight[kHeld * kGroup];
void load_rows(uint first, uint n_rows);

// Nobody asks how much is kept: a budget of tokens at the last level.
const bool kNeedsMass = kRule == WINNOW_RULE_TOP_P || kFinal == 0;

uint mass_of(float log_weight, uint n_tokens) { return uint(min(exp(log_weight) * float(n_tokens), 1.0) * kMassUnit + 0.5); }

// Rank of held row k: smaller is better, kOutside when it may not be kept at all. 16 bits: bin * 256 + bin of the second round.
uint row_rank(uint ranking, uint k, float threshold) {
    if (held_tokens[k] == 0) return kOutside;
    float pooled = held_weight[k * kGroup + (kPool == WINNOW_POOL_EACH ? ranking : 0)];
    if (kPool == WINNOW_POOL_MEAN) {
        float sum = 0.0;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) sum += exp(held_weight[k * kGroup + g]);
        pooled = log(max(sum / float(kGroup), 1.0e-30));
    } else if (kPool == WINNOW_POOL_MAX) {
        [[unroll]] for (uint g = 1; g < kGroup; ++g) pooled = max(pooled, held_weight[k * kGroup + g]);
    }
    if (threshold > 0.0 && pooled < log(threshold)) return kOutside;
    return min(uint(max(-pooled, 0.0) * kBinsPerNat * 256.0), 65535u);
}

// Finds the first bin at which the rule of ranking r is satisfied, and what lies before it. One subgroup; bins in ascending order.
void find_cut(uint r, HeadPolicy policy) {
    const uint end = kRankings == 1 ? kGroup : r + 1;  // heads that this ranking answers for: [r, end)
    uint count = select_before_count[r];
    uint mass[kGroup];
    for (uint g = r; g < end; ++g) mass[g] = select_before_mass[g];
    uint cut = 256;
    for (uint base = 0; base < 256 && cut == 256; base += gl_SubgroupSize) {
        const uint bin = base + gl_SubgroupInvocationID;
        const uint here = select_count[r * 256 + bin];
        const uint before = count + subgroupExclusiveAdd(here);
        bool reached = kRule != WINNOW_RULE_THRESHOLD;
        if (kRule == WINNOW_RULE_TOP_K) reached = before + here >= policy.budget_max;
        uint mass_before[kGroup];
        if (kNeedsMass) {
            for (uint g = r; g < end; ++g) {
                const uint mass_here = select_mass[g * 256 + bin];
                mass_before[g] = mass[g] + subgroupExclusiveAdd(mass_here);
                mass[g] += subgroupAdd(mass_here);
                if (kRule == WINNOW_RULE_TOP_P)
                    reached = reached && float(mass_before[g] + mass_here) >= policy.mass * kMassUnit;
            }
        }
        reached = (reached && before + here >= policy.budget_min) || before + here >= policy.budget_max;
        cut = subgroupMin(reached ? bin : 256);
        if (bin == cut) {
            select_before_count[r] = before;
            if (kNeedsMass)
                for (uint g = r; g < end; ++g) select_before_mass[g] = mass_before[g];
        }
        count += subgroupAdd(here);
    }
    if (subgroupElect()) {
        select_cut[r] = cut;  // 256: everything that is not outside
        if (cut == 256) {
            select_before_count[r] = count;
            if (kNeedsMass)
                for (uint g = r; g < end; ++g) select_before_mass[g] = mass[g];
        }
    }
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
        load_rows(base + gl_LocalInvocationIndex * kHeld, n_rows);
        [[unroll]] for (uint k = 0; k < kHeld; ++k) {
            [[unroll]] for (uint r = 0; r < kRankings; ++r) {
                const uint rank = row_rank(r, k, policy.threshold);
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
    for (uint r = gl_SubgroupID; r < kRankings; r += kSubgroups)
        if (round == 0 || coarse[r] < 256) find_cut(r, policy);
    barrier();
}

#endif
