// SPDX-License-Identifier: Apache-2.0
// The rows that a level chooses from, for the shaders that score them and that choose: which units they are, how many
// tokens of each lie in the middle region, and how a kv head's rule reads. The includer defines the constants of
// select.glsl, kUnit, kParentUnit, kBlockSize, kMaxRows, and the bindings used here.
#ifndef WINNOW_CANDIDATES_GLSL
#define WINNOW_CANDIDATES_GLSL
#include "shaders/common/select.glsl"

shared float shared_lse[kGroup];  // log of the denominator of each head's softmax

uint kv_head, position, sinks, middle_end, n_parents;

void find_candidates() {
    sinks = push.sink_tokens;
    const uint beyond = position + 1 > push.window ? position + 1 - push.window : 0;
    middle_end = max(min(beyond, position) / kBlockSize * kBlockSize, sinks);
    n_parents = kParentUnit == 0 ? 0 : controls[push.parent_control + kv_head].n_list;
}

// Which unit row i of this level is; rows of a level below another are the children of its list.
const uint kChildren = kParentUnit == 0 ? 1 : kParentUnit / kUnit;
uint row_unit(uint i) {
    if (kParentUnit == 0) return sinks / kUnit + i;
    return parents[push.parent_offset + kv_head * push.parent_stride + i / kChildren] * kChildren + i % kChildren;
}
uint n_level_rows() {
    if (kParentUnit != 0) return n_parents * kChildren;
    return middle_end <= sinks ? 0 : (middle_end + kUnit - 1) / kUnit - sinks / kUnit;
}
// Tokens of a unit that lie in the middle region.
uint unit_tokens(uint unit_id) {
    const uint from = max(unit_id * kUnit, sinks);
    const uint to = min((unit_id + 1) * kUnit, middle_end);
    return to > from ? to - from : 0;
}

uint row_tokens(uint i) {
    // The middle region ends with a block, and begins inside of one where sinks do.
    if (kParentUnit == 0 && kUnit <= kBlockSize) return kUnit - (i == 0 ? sinks % kUnit : 0);
    return unit_tokens(row_unit(i));
}

HeadPolicy rule_of_head() {
    HeadPolicy rule = policies[push.policy + kv_head];
    rule.budget_max = max(rule.budget_max, uint(rule.budget_share * float(position + 1)));
    if (kRule == WINNOW_RULE_TOP_P && rule.mass >= 1.0) rule.mass = 2.0;  // never reached: everything is kept
    return rule;
}

const uint kFetched = kGroup * kHeld / 4;  // quads
// Scores of rows first .. first + kHeld (a multiple of 4), 0 past `end`; and those rows held, from their scores.
void fetch_scores(uint first, uint end, out vec4 loaded[kFetched]) {
    [[unroll]] for (uint j = 0; j < kHeld / 4; ++j)
        [[unroll]] for (uint g = 0; g < kGroup; ++g)
            loaded[j * kGroup + g] =
                first + 4 * j < end ? score_quads[((kv_head * kGroup + g) * kMaxRows + first) / 4 + j] : vec4(0.0);
}
void hold_scores(vec4 loaded[kFetched], uint first, uint end, float threshold) {
    [[unroll]] for (uint k = 0; k < kHeld; ++k) {
        float weight[kGroup];
        [[unroll]] for (uint g = 0; g < kGroup; ++g)
            weight[g] = min(loaded[k / 4 * kGroup + g][k % 4] - shared_lse[g], 0.0);
        hold_row(k, first + k < end ? row_tokens(first + k) : 0, weight, threshold);
    }
}
void hold_scored_rows(uint first, uint end, float threshold) {
    vec4 loaded[kFetched];
    fetch_scores(first, end, loaded);
    hold_scores(loaded, first, end, threshold);
}

// Sum of x over the invocations before this one, and over all. `place` alternates from call to call, so that one
// barrier is enough.
uint scan_before(uint x, uint place, out uint total) {
    const uint through = subgroupInclusiveAdd(x);
    if (gl_SubgroupInvocationID == gl_SubgroupSize - 1) select_scan[place * kSubgroups + gl_SubgroupID] = through;
    barrier();
    const uvec2 sums = sums_of_subgroups(place * kSubgroups);
    total = sums.y;
    return sums.x + through - x;
}

#endif
