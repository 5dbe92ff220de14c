// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/kv_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "shaders/common/interface.h"
#include "tests/reference/attend_dense.h"
#include "tests/support/random.h"
#include "winnow/error.h"

namespace winnow {
namespace {

using ::testing::ElementsAre;

constexpr HeadRole kFull{};

KvConfig config(std::uint32_t capacity, std::vector<HeadRole> roles, std::uint32_t n_layers = 1) {
    KvConfig c;
    c.n_layers = n_layers;
    c.n_kv_heads = static_cast<std::uint32_t>(roles.size()) / n_layers;
    c.head_dim = 32;
    c.capacity = capacity;
    c.roles = std::move(roles);
    return c;
}

/// One head's row of the tables, read as the shaders read it (shaders/common/kv.glsl), headers included.
reference::HeadView view(const KvLayout& layout, std::uint32_t layer, std::uint32_t kv_head) {
    const std::vector<std::uint32_t> words = layout.tables();
    const std::size_t row = layout.table_offset(layer) + std::size_t{kv_head} * layout.table_stride();
    reference::HeadView v;
    v.block_size = layout.config().block_size;
    v.sink_blocks = words.at(row + WINNOW_TABLE_SINK_BLOCKS);
    v.ring_blocks = words.at(row + WINNOW_TABLE_RING_BLOCKS);
    v.window = words.at(row + WINNOW_TABLE_WINDOW);
    v.sink_tokens = words.at(row + WINNOW_TABLE_SINK_TOKENS);
    const auto first = words.begin() + static_cast<std::ptrdiff_t>(row) + WINNOW_TABLE_HEADER;
    v.blocks.assign(first, first + layout.head(layer, kv_head).n_blocks);
    return v;
}

/// Appends n_single tokens one by one and then chunks, and lets each query of a chunk look for all that it sees once
/// the chunk is there. Returns how many of these tokens lie in a block that was given away since, were it by one row
/// only: blocks have summaries, so they are whole or gone. A row outside the head's own blocks fails the test.
std::size_t tokens_lost(const reference::HeadView& v, std::uint32_t capacity, std::uint32_t chunk,
                        std::uint32_t n_single) {
    const auto [low, high] = std::minmax_element(v.blocks.begin(), v.blocks.end());
    std::map<std::size_t, std::uint32_t> held;  // physical block -> logical block
    std::size_t n_lost = 0;
    for (std::uint32_t done = 0, end = 0; done < capacity; done = end) {
        end = std::min(capacity, done + (done < n_single ? 1 : chunk));
        for (std::uint32_t token = done; token < end; ++token) {
            const std::size_t block = v.row(token) / v.block_size;
            EXPECT_TRUE(block >= *low && block <= *high) << "token " << token;
            held[block] = token / v.block_size;
        }
        for (std::uint32_t position = done; position < end; ++position)
            for (std::uint32_t token = 0; token <= position; ++token)
                if (v.sees(position, token) && held.at(v.row(token) / v.block_size) != token / v.block_size) ++n_lost;
    }
    return n_lost;
}

TEST(KvLayout, FullHeadsStandInOrder) {
    const KvLayout layout(config(129, {kFull, kFull, kFull, kFull}, 2));  // 3 blocks of 64
    EXPECT_EQ(layout.table_stride(), WINNOW_TABLE_HEADER + 3u);
    EXPECT_EQ(layout.table_offset(1), 2 * layout.table_stride());
    for (std::uint32_t layer = 0; layer < 2; ++layer) {
        EXPECT_EQ(layout.layer_blocks(layer), 6u);
        EXPECT_THAT(view(layout, layer, 0).blocks, ElementsAre(0, 1, 2));  // each layer has pools of its own
        EXPECT_THAT(view(layout, layer, 1).blocks, ElementsAre(3, 4, 5));
    }
    // A step queued behind the last one looks up the block after a full cache, before it sees that it has nothing to
    // do.
    EXPECT_EQ(layout.tables().size(), 4u * layout.table_stride() + 1);
    const reference::HeadView v = view(layout, 1, 1);
    EXPECT_EQ(v.ring_blocks, 0u);
    EXPECT_EQ(v.row(0), 3u * 64);
    EXPECT_EQ(v.row(128), 5u * 64);
}

TEST(KvLayout, OddLengthsRoundUpToBlocks) {
    for (const auto& [capacity, n_blocks] :
         std::map<std::uint32_t, std::uint32_t>{{1, 1}, {63, 1}, {64, 1}, {65, 2}, {127, 2}, {128, 2}, {1025, 17}})
        EXPECT_EQ(KvLayout(config(capacity, {kFull})).layer_blocks(0), n_blocks) << capacity;
    KvConfig small = config(65, {kFull});
    small.block_size = 16;
    EXPECT_EQ(KvLayout(small).layer_blocks(0), 5u);
}

TEST(KvLayout, ARingWrapsToItsFirstBlockAndSparesTheSinks) {
    // 65 tokens that begin with the last one of a block end with the next block; 66 reach one more.
    const KvLayout layout(config(1024, {kFull, {true, 65, 70}, {true, 66, 0}}));
    const reference::HeadView sinks = view(layout, 0, 1);
    EXPECT_EQ(sinks.sink_blocks, 2u);
    EXPECT_EQ(sinks.ring_blocks, 2u);
    EXPECT_EQ(sinks.window, 65u);
    EXPECT_EQ(sinks.sink_tokens, 70u);
    EXPECT_THAT(sinks.blocks, ElementsAre(16, 17, 18, 19));  // after the 16 of the full head
    EXPECT_EQ(sinks.row(127), 17u * 64 + 63);                // last row of the sinks
    EXPECT_EQ(sinks.row(128), 18u * 64);                     // the ring begins
    EXPECT_EQ(sinks.row(255), 19u * 64 + 63);
    EXPECT_EQ(sinks.row(256), 18u * 64);  // and begins anew
    EXPECT_EQ(sinks.row(1023), 19u * 64 + 63);
    const reference::HeadView ring = view(layout, 0, 2);
    EXPECT_EQ(ring.ring_blocks, 3u);
    EXPECT_EQ(ring.row(0), ring.row(192));
    EXPECT_EQ(ring.row(0), 20u * 64);
}

// The heart of the matter: with windows, sinks, chunks and blocks of any size, no query misses a token, and no ring has
// a block more than it needs.
TEST(KvLayout, LocalHeadsKeepAllThatIsSeenAndNoMore) {
    test::ReplicableRng rng;
    const auto draw = [&](int least, int most) { return static_cast<std::uint32_t>(rng.integer(least, most)); };
    std::size_t n_tight = 0;
    for (int i = 0; i < 60; ++i) {
        const std::uint32_t capacity = draw(100, 400);
        KvConfig c = config(capacity, {kFull, {true, draw(1, 80), i % 3 == 0 ? 0 : draw(1, 40)}});
        c.block_size = i % 2 == 0 ? 16 : 32;
        c.max_chunk = i % 4 == 0 ? 1 : draw(2, 50);
        const KvLayout layout(c);
        reference::HeadView v = view(layout, 0, 1);
        SCOPED_TRACE(testing::Message() << "capacity " << capacity << " window " << v.window << " sinks "
                                        << v.sink_tokens << " chunk " << c.max_chunk << " block " << c.block_size);
        EXPECT_EQ(tokens_lost(v, capacity, c.max_chunk, draw(0, 40)), 0u);
        if (v.ring_blocks == 0) continue;
        EXPECT_LT(layout.head(0, 1).n_blocks, layout.head(0, 0).n_blocks);
        EXPECT_EQ(v.blocks.size(), v.sink_blocks + v.ring_blocks);
        // One block less, and chunks that begin at some place of a block lose a token, given the room to get there.
        if (v.ring_blocks < 2 || capacity < c.block_size * (v.blocks.size() + 3) + 2 * c.max_chunk + v.window) continue;
        ++n_tight;
        v.ring_blocks -= 1;
        std::size_t n_lost = 0;
        for (std::uint32_t n_single = 0; n_single < c.block_size && n_lost == 0; ++n_single)
            n_lost += tokens_lost(v, capacity, c.max_chunk, n_single);
        EXPECT_GT(n_lost, 0u);
    }
    EXPECT_GT(n_tight, 10u) << "the cases miss what they are for";
}

TEST(KvLayout, ALocalHeadThatWouldSaveNothingIsFull) {
    // Window 128: a ring of 3 blocks; sinks: 1 block.
    const HeadRole role{true, 128, 1};
    for (const std::uint32_t capacity : {1u, 128u, 256u}) {
        const HeadLayout head = KvLayout(config(capacity, {role})).head(0, 0);
        EXPECT_EQ(head.ring_blocks, 0u) << capacity;
        EXPECT_EQ(head.sink_blocks, 0u) << capacity;
        EXPECT_EQ(head.n_blocks, (capacity + 63) / 64);
    }
    const KvLayout layout(config(257, {role}));
    EXPECT_EQ(layout.head(0, 0).ring_blocks, 3u);
    EXPECT_EQ(layout.head(0, 0).n_blocks, 4u);
    // Full or not, the window is what the queries see.
    EXPECT_EQ(view(KvLayout(config(64, {role})), 0, 0).window, 128u);
}

TEST(KvLayout, WindowsAloneDoNotMakeAHeadLocal) {
    const KvLayout layout(config(1024, {{false, 64, 4}}));
    EXPECT_EQ(layout.layer_blocks(0), 16u);
    const reference::HeadView v = view(layout, 0, 0);
    EXPECT_EQ(v.window, 64u);
    EXPECT_EQ(v.sink_tokens, 4u);
    EXPECT_EQ(v.row(1023), 1023u);
}

TEST(KvLayout, LocalCacheDoesNotGrowWithTheContext) {
    const HeadRole local{true, 512, 4};
    const auto bytes = [&](std::uint32_t capacity, const HeadRole& role) {
        return KvLayout(config(capacity, {role, role}, 2)).total_bytes();
    };
    EXPECT_EQ(bytes(1u << 20, local), bytes(4096, local));
    EXPECT_EQ(bytes(4096, kFull), 2 * bytes(2048, kFull));
    // Sinks 1 block + ring 9 blocks of the 64 that a full head has.
    EXPECT_EQ(bytes(4096, local) * 64, bytes(4096, kFull) * 10);
}

TEST(KvLayout, BytesByTypeAndLayer) {
    KvConfig c = config(640, {kFull, kFull, kFull, {true, 64, 0}, {true, 64, 0}, {true, 64, 0}}, 3);
    c.head_dim = 80;
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        c.type = type;
        const KvLayout layout(c);
        const std::uint64_t block = 64 * 80 * (type == KvType::kF16 ? 2 : 4);
        EXPECT_EQ(layout.block_bytes(), block);
        EXPECT_EQ(layout.pool_bytes(0), 20 * block);
        EXPECT_EQ(layout.pool_bytes(1), 12 * block);  // 10 of the full head, 2 of the local one
        EXPECT_EQ(layout.pool_bytes(2), 4 * block);
        EXPECT_EQ(layout.largest_pool_bytes(), 20 * block);
        EXPECT_EQ(layout.total_bytes(), 2 * 36 * block);
        EXPECT_EQ(layout.head(1, 1).first_block, 10u);
    }
}

TEST(KvLayout, FullHeadsStandBeforeRings) {
    const KvLayout layout(config(1024, {{true, 65, 0}, kFull, {true, 65, 0}}));
    EXPECT_EQ(layout.full_blocks(0), 16u);
    EXPECT_EQ(layout.head(0, 1).first_block, 0u);
    EXPECT_EQ(layout.head(0, 0).first_block, 16u);
    EXPECT_EQ(layout.head(0, 2).first_block, 16u + layout.head(0, 0).n_blocks);
    EXPECT_EQ(layout.layer_blocks(0), 16u + 2 * layout.head(0, 0).n_blocks);
}

TEST(KvLayout, TheLargestContextDoesNotOverflow) {
    KvConfig c = config(~0u, {kFull, kFull, {true, ~0u, 0}, {true, 1u << 20, ~0u}}, 2);
    c.head_dim = 256;
    c.type = KvType::kF32;
    c.max_chunk = 512;
    const KvLayout layout(c);
    const std::uint64_t pool = std::uint64_t{2} << 42;  // 2 heads x 2^32 tokens x 1 KiB
    EXPECT_EQ(layout.pool_bytes(0), pool);
    EXPECT_EQ(layout.pool_bytes(1), pool);  // neither saves anything
    EXPECT_EQ(layout.total_bytes(), 4 * pool);
}

TEST(KvLayout, RefusesWhatCannotBe) {
    EXPECT_THROW(KvLayout(config(0, {kFull})), Error);
    EXPECT_THROW(KvLayout(config(64, {{true, 0, 4}})), Error);
}

TEST(KvLayout, RolesFollowTheModelsWindows) {
    ModelShape shape;
    shape.n_kv_heads = 2;
    shape.layers.resize(3);
    shape.layers[1].window = 512;
    const std::vector<HeadRole> roles = model_roles(shape);
    ASSERT_EQ(roles.size(), 6u);
    for (std::size_t i = 0; i < roles.size(); ++i) {
        EXPECT_EQ(roles[i].local, i / 2 == 1) << i;
        EXPECT_EQ(roles[i].window, i / 2 == 1 ? 512u : 0u) << i;
        EXPECT_EQ(roles[i].sink_tokens, 0u);
    }
}

}  // namespace
}  // namespace winnow
