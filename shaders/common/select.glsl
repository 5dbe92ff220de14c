// SPDX-License-Identifier: Apache-2.0
// The budget rule: from scores of rows to the smallest set that satisfies the rule, by integer histograms, so that the
// result does not depend on any order. Runs in one workgroup (the last to arrive). Weight of a row for head g is
// w_g = exp(score - lse_g) per token; rows are ranked by the pooled weight (softmax before pooling: raw scores would let loud
// heads win). Two rounds of 256 bins: 1/8 nat, then 1/2048 nat inside the bin that the cut falls into; ties go to lower ids.
// The includer defines kGroup, kGroupSize, kSubgroups, kRule, kPool and row_weights().
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

// Tokens of row i and, when there are any, its weight per token for each head as natural logarithm (<= about 0).
uint row_weights(uint i, out float log_weight[kGroup]);

// Rank of a row: smaller is better, kOutside when it may not be kept at all. 16 bits: bin * 256 + bin of the second round.
uint row_rank(uint ranking, uint n_tokens, float log_weight[kGroup], float threshold) {
    if (n_tokens == 0) return kOutside;
    float pooled = log_weight[kPool == WINNOW_POOL_EACH ? ranking : 0];
    if (kPool == WINNOW_POOL_MEAN) {
        float sum = 0.0;
        [[unroll]] for (uint g = 0; g < kGroup; ++g) sum += exp(log_weight[g]);
        pooled = log(max(sum / float(kGroup), 1.0e-30));
    } else if (kPool == WINNOW_POOL_MAX) {
        [[unroll]] for (uint g = 1; g < kGroup; ++g) pooled = max(pooled, log_weight[g]);
    }
    if (threshold > 0.0 && pooled < log(threshold)) return kOutside;
    return min(uint(max(-pooled, 0.0) * kBinsPerNat * 256.0), 65535u);
}

// One round over rows [0, n_rows): counts bins, finds the first bin at which the rule is satisfied.
// `round` 0: bins of 1/8 nat over everything; 1: inside `coarse` of each ranking, on top of what lies before it.
void select_round(uint round, uint coarse[kRankings], uint n_rows, HeadPolicy policy) {
    for (uint i = gl_LocalInvocationIndex; i < 256; i += kGroupSize) {
        for (uint r = 0; r < kRankings; ++r) select_count[r * 256 + i] = 0;
        for (uint g = 0; g < kGroup; ++g) select_mass[g * 256 + i] = 0;
    }
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < n_rows; i += kGroupSize) {
        float log_weight[kGroup];
        const uint n = row_weights(i, log_weight);
        [[unroll]] for (uint r = 0; r < kRankings; ++r) {
            const uint rank = row_rank(r, n, log_weight, policy.threshold);
            if (rank == kOutside || (round == 1 && rank / 256 != coarse[r])) continue;
            const uint bin = round == 0 ? rank / 256 : rank % 256;
            atomicAdd(select_count[r * 256 + bin], n);
            [[unroll]] for (uint g = r; g < (kRankings == 1 ? kGroup : r + 1); ++g)
                atomicAdd(select_mass[g * 256 + bin], uint(min(exp(log_weight[g]) * float(n), 1.0) * kMassUnit + 0.5));
        }
    }
    barrier();
    if (gl_LocalInvocationIndex < kRankings && (round == 0 || coarse[gl_LocalInvocationIndex] < 256)) {
        const uint r = gl_LocalInvocationIndex;
        const uint end = kRankings == 1 ? kGroup : r + 1;  // heads that this ranking answers for: [r, end)
        uint count = select_before_count[r];
        uint mass[kGroup];
        for (uint g = 0; g < kGroup; ++g) mass[g] = select_before_mass[g];
        uint bin = 0;
        for (; bin < 256; ++bin) {
            bool reached = kRule != WINNOW_RULE_THRESHOLD;
            if (kRule == WINNOW_RULE_TOP_P)
                for (uint g = r; g < end; ++g)
                    reached = reached && float(mass[g] + select_mass[g * 256 + bin]) >= policy.mass * kMassUnit;
            else if (kRule == WINNOW_RULE_TOP_K)
                reached = count + select_count[r * 256 + bin] >= policy.budget_max;
            reached = reached && count + select_count[r * 256 + bin] >= policy.budget_min;
            if (reached || count + select_count[r * 256 + bin] >= policy.budget_max) break;
            count += select_count[r * 256 + bin];
            for (uint g = r; g < end; ++g) mass[g] += select_mass[g * 256 + bin];
        }
        select_cut[r] = bin;  // 256: everything that is not outside
        select_before_count[r] = count;
        for (uint g = r; g < end; ++g) select_before_mass[g] = mass[g];
    }
    barrier();
}

#endif
