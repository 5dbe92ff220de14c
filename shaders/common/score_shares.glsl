// SPDX-License-Identifier: Apache-2.0
// Scores of the rows that select_attend chooses from where it scores them itself, boxes (score_boxes.glsl) or index keys
// (score_keys.glsl), so that they take no dispatch. Few rows every workgroup scores by itself. Of more it scores its share,
// writes the scores and waits for the others of its kv head (wait.glsl); one that gives up scores the other shares too.
#ifndef WINNOW_SCORE_SHARES_GLSL
#define WINNOW_SCORE_SHARES_GLSL
#include "shaders/common/wait.glsl"

// Scores of the rows of a workgroup that scores all of them, two rows each, by head.
shared vec2 own_pairs[kGroup * kOwnRows / 2];
// (m, d) of rows, and where anybody asks for the mass that is kept, of sinks and window for themselves.
const uint kStates = kNeedsMass ? 2 : 1;
shared vec2 share_md[kSubgroups * kStates * kGroup];

// What this workgroup scores of a head: all rows, or those of `share`, one of kMaxSplits; sinks and window by the way.
struct Share {
    bool own;
    uint share, n_rows, n_first, n_sure;  // tokens of the sinks; with those of the window
};
// Of a token of sinks or window.
uint sure_row(Share s, uint i) {
    i = min(i, s.n_sure - 1);
    const uint token = i < s.n_first ? i : middle_end + i - s.n_first;
    return block_table[table.row + WINNOW_TABLE_HEADER + token / kBlockSize] * kBlockSize + token % kBlockSize;
}

// The includer defines it: scores, and in share_md the states of each subgroup.
void score_share(Share s);

// State i of kStates * kGroup, of the workgroup's subgroups or of all shares.
vec2 merged_md(bool shares, uint i) {
    vec2 md = vec2(kEmpty, 0.0);
    const uint n = shares ? kMaxSplits : kSubgroups;
    const uint most = kMaxSplits > kSubgroups ? kMaxSplits : kSubgroups;
    for (uint first = 0; first < most; first += kSubgroupLanes) {  // one turn in common cases
        const uint part = first + gl_SubgroupInvocationID;
        vec2 other = vec2(kEmpty, 0.0);
        if (part < n && shares) other = ranges[(kv_head * kMaxSplits + part) * kStates * kGroup + i];
        if (part < n && !shares) other = share_md[part * kStates * kGroup + i];
        if (first == 0) md = other;
        else merge_state(md, other);
    }
    const float largest = subgroupMax(md.x);
    return vec2(largest, subgroupAdd(md.y * exp(md.x - largest)));
}

// Leaves the scores where fetch_rows() finds them, and each head's denominator.
bool scored_alone = true;
void score_own_rows(uint split, uint n_rows) {
    scored_alone = kMaxRows <= kOwnRows || n_rows <= kOwnRows;
    const uint n_first = min(sinks, position + 1);
    const uint n_recent = position + 1 > middle_end ? position + 1 - middle_end : 0;
    Share s = Share(scored_alone, split, n_rows, n_first, n_first + n_recent);
    // One loop for all, so that its code is there once. Alone it has one turn, and where nobody gives up too.
    for (uint next = kMaxSplits; ; ) {
        score_share(s);
        barrier();
        if (kMaxRows <= kOwnRows || scored_alone) break;
        for (uint i = gl_SubgroupID; i < kStates * kGroup; i += kSubgroups) {
            const vec2 md = merged_md(false, i);
            if (subgroupElect()) ranges[(kv_head * kMaxSplits + s.share) * kStates * kGroup + i] = md;
        }
        if (next == kMaxSplits) {  // this workgroup's own share
            if (all_arrive(push.counter + kv_head, kMaxSplits)) break;
            next = 0;
        } else {
            memoryBarrierBuffer();
            barrier();
            ++next;
        }
        if (next == split) ++next;
        if (next == kMaxSplits) break;
        s.share = next;
    }
    for (uint g = gl_SubgroupID; g < kGroup; g += kSubgroups) {
        vec2 total = merged_md(!scored_alone, g);
        vec2 sure = vec2(kEmpty, 0.0);
        if (kStates == 2) {
            sure = merged_md(!scored_alone, (kStates - 1) * kGroup + g);
            merge_state(total, sure);
        }
#ifdef DROPPED_BINDING
        merge_state(total, vec2(dropped[kv_head * kGroup + g], 1.0));
#endif
        if (subgroupElect()) {
            shared_lse[g] = total.x + log(max(total.y, 1.0e-30));
            select_before_mass[g] = uint(share_of(sure, shared_lse[g]) * kMassUnit);
        }
    }
}

void leave_scores() {
    if (kMaxRows <= kOwnRows || scored_alone || gl_LocalInvocationIndex != 0) return;
    is_last_to_leave(push.counter + kv_head, kMaxSplits);
}

#endif
