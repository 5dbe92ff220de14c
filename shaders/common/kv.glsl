// SPDX-License-Identifier: Apache-2.0
// Where a token's key and value lie: block tables and pools. K and V pools: [n_physical, kBlockSize, kHeadDim].
// Include with TABLE_BINDING defined and kBlockSize in scope.
#ifndef WINNOW_KV_GLSL
#define WINNOW_KV_GLSL

layout(set = 0, binding = TABLE_BINDING, scalar) restrict readonly buffer BlockTable { uint block_table[]; };

struct HeadTable {
    uint row;
    uint sink_blocks;
    uint ring_blocks;
    uint window;
    uint sink_tokens;
};

HeadTable head_table(uint offset, uint stride, uint kv_head) {
    HeadTable h;
    h.row = offset + kv_head * stride;
    h.sink_blocks = block_table[h.row + WINNOW_TABLE_SINK_BLOCKS];
    h.ring_blocks = block_table[h.row + WINNOW_TABLE_RING_BLOCKS];
    h.window = block_table[h.row + WINNOW_TABLE_WINDOW];
    h.sink_tokens = block_table[h.row + WINNOW_TABLE_SINK_TOKENS];
    return h;
}

uint physical_block(HeadTable h, uint logical) {
    const uint slot = h.ring_blocks == 0 || logical < h.sink_blocks
                          ? logical
                          : h.sink_blocks + (logical - h.sink_blocks) % h.ring_blocks;
    return block_table[h.row + WINNOW_TABLE_HEADER + slot];
}

bool is_visible(HeadTable h, uint position, uint token) {
    return token <= position && (h.window == 0 || token + h.window > position || token < h.sink_tokens);
}

// The logical blocks that a query at `position` sees, as a dense list: i in [0, n_visible_blocks).
struct VisibleBlocks {
    uint n_first;      // leading sink blocks
    uint window_from;  // first block of the window
    uint n;
};

VisibleBlocks visible_blocks(HeadTable h, uint position) {
    VisibleBlocks v;
    const uint last = position / kBlockSize;
    const uint from = h.window == 0 || position + 1 <= h.window ? 0 : (position + 1 - h.window) / kBlockSize;
    v.n_first = min((h.sink_tokens + kBlockSize - 1) / kBlockSize, from);
    v.window_from = from;
    v.n = v.n_first + last + 1 - from;
    return v;
}

uint visible_block(VisibleBlocks v, uint i) { return i < v.n_first ? i : v.window_from + i - v.n_first; }

#endif
