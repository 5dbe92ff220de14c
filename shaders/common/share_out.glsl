// SPDX-License-Identifier: Apache-2.0
// The scores of the tokens (or rows) in flight, kValues in all, value = token * kGroup + head, are summed over the
// kLanes lanes that have parts of them so that each lane is left with kOwned of them: in half the shuffles, and with
// one exp for each and not one in every lane. Step by step lanes that differ in one bit share out what they have in
// halves, tokens first, as long as it is even; after that both keep the same. The includer defines kValues, kGroup,
// kLanes, kGroupSize and kSubgroups.
#ifndef WINNOW_SHARE_OUT_GLSL
#define WINNOW_SHARE_OUT_GLSL

const uint kOwned1 = kValues / (1 + (kLanes > 1 ? 1 - kValues % 2 : 0));
const uint kOwned2 = kOwned1 / (1 + (kLanes > 2 ? 1 - kOwned1 % 2 : 0));
const uint kOwned3 = kOwned2 / (1 + (kLanes > 4 ? 1 - kOwned2 % 2 : 0));
const uint kOwned4 = kOwned3 / (1 + (kLanes > 8 ? 1 - kOwned3 % 2 : 0));
const uint kOwned = kOwned4 / (1 + (kLanes > 16 ? 1 - kOwned4 % 2 : 0));

uint share_lane() { return gl_SubgroupInvocationID % kLanes; }

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
// The inverse: the value that this lane owns at place j. With at least as many lanes as tokens all of them are of one
// token.
uint own_value(uint j) {
    uint x = j;
    if (kOwned1 < kValues && (share_lane() & 1) != 0) x += kOwned1;
    if (kOwned2 < kOwned1 && (share_lane() & 2) != 0) x += kOwned2;
    if (kOwned3 < kOwned2 && (share_lane() & 4) != 0) x += kOwned3;
    if (kOwned4 < kOwned3 && (share_lane() & 8) != 0) x += kOwned4;
    if (kOwned < kOwned4 && (share_lane() & 16) != 0) x += kOwned;
    return x;
}
// One such step for the scores v: lanes that differ in `bit` hold `before` of them and keep `after`.
#define SHARE_OUT(bit, before, after)                                                                          \
    if (kLanes > bit) {                                                                                        \
        const bool upper = (share_lane() & bit) != 0;                                                          \
        [[unroll]] for (uint i = 0; i < after; ++i) {                                                          \
            const float given = after < before && !upper ? v[min(i + after, before - 1)] : v[i];               \
            if (after < before && upper) v[i] = v[min(i + after, before - 1)];                                 \
            v[i] += subgroupShuffleXor(given, bit);                                                            \
        }                                                                                                      \
    }

// Leaves the sums that this lane owns in v[0 .. kOwned).
void share_out(inout float v[kValues]) {
    SHARE_OUT(1, kValues, kOwned1)
    SHARE_OUT(2, kOwned1, kOwned2)
    SHARE_OUT(4, kOwned2, kOwned3)
    SHARE_OUT(8, kOwned3, kOwned4)
    SHARE_OUT(16, kOwned4, kOwned)
}

#endif
