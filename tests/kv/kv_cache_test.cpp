// SPDX-License-Identifier: Apache-2.0
#include "runtime/kv/kv_cache.h"

#include <gmock/gmock.h>

#include <charconv>
#include <set>
#include <string>

#include "shaders/common/interface.h"
#include "tests/support/gpu_fixture.h"

namespace winnow {
namespace {

using ::testing::HasSubstr;

class KvCacheTest : public test::GpuTest {
protected:
    static std::uint64_t binding_limit() {
        return std::min(device().limits().max_storage_buffer_range, device().limits().max_allocation_bytes);
    }
};

// Three layers of two heads: full, mixed, local.
KvConfig mixed(std::uint32_t capacity, KvType type) {
    const HeadRole full{}, local{true, 100, 5};
    KvConfig c;
    c.n_layers = 3;
    c.n_kv_heads = 2;
    c.head_dim = 80;
    c.capacity = capacity;
    c.type = type;
    c.roles = {full, full, full, local, local, local};
    return c;
}

KvConfig all(const HeadRole& role, std::uint32_t capacity) {
    KvConfig c = mixed(capacity, KvType::kF16);
    c.roles.assign(6, role);
    return c;
}

TEST_F(KvCacheTest, TakesWhatWasPlannedToTheByte) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t capacity : {1u, 65u, 1000u}) {
            SCOPED_TRACE(testing::Message() << "capacity " << capacity << " type " << static_cast<int>(type));
            const KvLayout planned(mixed(capacity, type));
            const std::uint64_t bytes_before = device().allocated_bytes();
            const std::uint64_t n_before = device().n_allocations();
            const KvCache cache(device(), mixed(capacity, type));
            std::uint64_t held = cache.tables().bytes();
            for (std::uint32_t layer = 0; layer < 3; ++layer) {
                EXPECT_EQ(cache.keys(layer).bytes(), planned.pool_bytes(layer)) << layer;
                EXPECT_EQ(cache.values(layer).bytes(), planned.pool_bytes(layer)) << layer;
                held += cache.keys(layer).bytes() + cache.values(layer).bytes();
            }
            EXPECT_EQ(held, KvCache::bytes_needed(planned));
            EXPECT_EQ(cache.bytes(), held);
            // The driver rounds; besides the seven buffers there is nothing, but where the tables were staged, and that
            // is gone.
            EXPECT_EQ(device().n_allocations(), n_before + (device().unified_memory() ? 7 : 8));
            EXPECT_GE(device().allocated_bytes() - bytes_before, held);
            EXPECT_LT(device().allocated_bytes() - bytes_before, held + 7 * 65536);
        }
    }
}

// Layer 2 has rings, head 1 of layer 1 too; layer 0 keeps everything.
TEST_F(KvCacheTest, SumsAreCountedAndFollowTheRoles) {
    KvConfig c = mixed(1000, KvType::kF16);
    const std::uint64_t plain = KvCache::bytes_needed(KvLayout(c));
    EXPECT_FALSE(KvCache(device(), c).evicted());
    for (std::size_t i = 3; i < 6; ++i) c.roles[i].summed = true;
    const std::uint64_t before = device().allocated_bytes();
    KvCache cache(device(), c);
    const EvictedSums& sums = cache.evicted();
    ASSERT_TRUE(sums);
    EXPECT_EQ(cache.bytes(), KvCache::bytes_needed(cache.layout()));
    EXPECT_EQ(cache.bytes(), plain + 6 * (2 * 80 * 8 + 4));
    EXPECT_GE(device().allocated_bytes() - before, cache.bytes());
    EXPECT_FALSE(sums.sums_layer(0));
    EXPECT_EQ(sums.first_row(1), 2u);
    EXPECT_EQ(sums.first_row(2), 4u);
    // Counts of rings are those of a cache of so many tokens; a window of 100 and 5 sinks see the first 105.
    sums.assume(device(), cache.layout(), 300);
    EXPECT_EQ(download<std::uint32_t>(sums.counts()), (std::vector<std::uint32_t>{0, 0, 0, 196, 196, 196}));
    sums.assume(device(), cache.layout(), 104);
    EXPECT_EQ(download<std::uint32_t>(sums.counts()), std::vector<std::uint32_t>(6, 0));

    // Another policy: rings go on, a head that keeps everything comes in and goes.
    sums.assume(device(), cache.layout(), 300);
    std::vector<HeadRole> roles(6);
    roles[0] = {true, 50, 5, true};
    cache.set_summed(device(), roles);
    EXPECT_TRUE(cache.evicted().sums_layer(0));
    EXPECT_TRUE(cache.evicted().is_summed(3));
    EXPECT_EQ(download<std::uint32_t>(cache.evicted().counts()), (std::vector<std::uint32_t>{0, 0, 0, 196, 196, 196}));
    cache.set_summed(device(), std::vector<HeadRole>(6));
    EXPECT_FALSE(cache.evicted().sums_layer(0));
    EXPECT_TRUE(cache.evicted().sums_layer(2));

    KvCache unsummed(device(), mixed(1000, KvType::kF16));
    EXPECT_THROW(unsummed.set_summed(device(), c.roles), Error);  // its rings have dropped tokens
    EXPECT_FALSE(unsummed.evicted());
    unsummed.set_summed(device(), roles);
    EXPECT_TRUE(unsummed.evicted().is_summed(0));
    unsummed.set_summed(device(), std::vector<HeadRole>(6));
    EXPECT_EQ(unsummed.bytes(), plain);
}

TEST_F(KvCacheTest, LocalHeadsReallyTakeLess) {
    const auto allocated = [](const KvConfig& c) {
        const std::uint64_t before = device().allocated_bytes();
        const KvCache cache(device(), c);
        EXPECT_EQ(cache.tables().bytes(), KvCache::bytes_needed(cache.layout()) - cache.layout().total_bytes());
        return device().allocated_bytes() - before;
    };
    // Sinks 1 block + ring 3 blocks instead of 64.
    const std::uint64_t full = allocated(all({}, 4096));
    const std::uint64_t local = allocated(all({true, 100, 5}, 4096));
    EXPECT_GT(full, 15 * local);
    EXPECT_EQ(allocated(all({true, 100, 5}, 8192)), local);
    EXPECT_GT(allocated(all({false, 100, 5}, 4096)), 15 * local);  // a window alone frees nothing
    // And 32-bit elements take twice as much.
    const KvCache half(device(), mixed(1000, KvType::kF16));
    const KvCache single(device(), mixed(1000, KvType::kF32));
    for (std::uint32_t layer = 0; layer < 3; ++layer)
        EXPECT_EQ(single.keys(layer).bytes(), 2 * half.keys(layer).bytes());
}

TEST_F(KvCacheTest, MemoryGoesBackWithTheCache) {
    const std::uint64_t before = device().allocated_bytes();
    {
        const KvCache cache(device(), mixed(1000, KvType::kF16));
        EXPECT_GT(device().allocated_bytes(), before);
    }
    EXPECT_EQ(device().allocated_bytes(), before);
}

// What shaders will read: every entry within its layer's pool, no block twice, header as laid out.
TEST_F(KvCacheTest, TablesArriveOnTheDevice) {
    const KvCache cache(device(), mixed(1000, KvType::kF16));
    const KvLayout& layout = cache.layout();
    const auto words = download<std::uint32_t>(cache.tables());
    ASSERT_EQ(words.size(), 6u * layout.table_stride() + 1);
    for (std::uint32_t layer = 0; layer < 3; ++layer) {
        const std::uint64_t pool_blocks = cache.keys(layer).bytes() / layout.block_bytes();
        std::set<std::uint32_t> blocks;
        for (std::uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
            const std::uint32_t* row = &words[layout.table_offset(layer) + kv_head * layout.table_stride()];
            const bool local = layer == 2 || (layer == 1 && kv_head == 1);
            EXPECT_EQ(row[WINNOW_TABLE_SINK_BLOCKS], local ? 1u : 0u);
            EXPECT_EQ(row[WINNOW_TABLE_RING_BLOCKS], local ? 3u : 0u);
            EXPECT_EQ(row[WINNOW_TABLE_WINDOW], local ? 100u : 0u);
            EXPECT_EQ(row[WINNOW_TABLE_SINK_TOKENS], local ? 5u : 0u);
            for (std::uint32_t b = 0; b < (local ? 4u : 16u); ++b) {
                EXPECT_LT(row[WINNOW_TABLE_HEADER + b], pool_blocks);
                EXPECT_TRUE(blocks.insert(row[WINNOW_TABLE_HEADER + b]).second) << "block " << b << " is shared";
            }
        }
        EXPECT_EQ(blocks.size(), pool_blocks) << "blocks of layer " << layer << " that no head has";
    }
}

// Tokens that the refusal of a cache advises; 0, with a failure, where it is not refused so.
std::uint64_t advised(vk::Device& device, const KvConfig& c) {
    std::uint64_t tokens = 0;
    try {
        const KvCache cache(device, c);
        ADD_FAILURE() << "a pool of " << cache.keys(0).bytes() << " bytes was bound";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
        const std::string text = error.what();
        EXPECT_THAT(text, HasSubstr("layer 0"));
        const std::size_t at = text.find("use -c ");
        if (at == text.npos) ADD_FAILURE() << text;
        else std::from_chars(text.data() + at + 7, text.data() + text.size(), tokens);
    }
    return tokens;
}

// A pool beyond the device's limit is refused before anything is taken, and the advice holds.
TEST_F(KvCacheTest, NamesTheCapacityThatFits) {
    const HeadRole full{}, local{true, 100, 5};
    KvConfig c;
    c.n_layers = 1;
    c.n_kv_heads = 2;
    c.head_dim = 64;
    const std::uint64_t head_tokens = binding_limit() / 128;  // of one head's 64 halves
    if (head_tokens + 64 > ~0u) GTEST_SKIP() << "this device binds more than any context takes";
    const std::uint64_t before = device().n_allocations();
    for (const bool with_local : {false, true}) {
        SCOPED_TRACE(with_local);
        // A local head takes four blocks whatever the capacity, and the full one beside it all the rest.
        c.roles = {full, with_local ? local : full};
        const std::uint64_t largest = with_local ? head_tokens / 64 * 64 - 4 * 64 : head_tokens / 2 / 64 * 64;
        c.capacity = static_cast<std::uint32_t>(largest + 64);
        EXPECT_EQ(advised(device(), c), largest);
    }
    EXPECT_EQ(device().n_allocations(), before);
    c.capacity = 0;
    EXPECT_THROW(KvCache(device(), c), Error);
}

}  // namespace
}  // namespace winnow
