// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/summarize_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/kv/index_codes.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/vk/timeline.h"
#include "tests/reference/summarize_block.h"
#include "tests/support/close.h"
#include "tests/support/code_rows.h"
#include "tests/support/dense_data.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/index_rows.h"
#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kSuper = 1024, kFirstMap = 5, kFirstCode = 7;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct SummarizeCase {
    CacheShape shape;
    std::uint32_t unit = 64, index_dim = 0, index_unit = 64;
    IndexType index_type = IndexType::kF16;
    bool codes = false;
    std::vector<std::uint32_t> cuts = {};  ///< tokens at which a chunk ends, besides the last

    std::string text() const {
        return fmt::format("{} unit {} index {} x {} chunks {}", shape.text(), unit, index_dim, index_unit,
                           cuts.size() + 1);
    }
};

/// What a stage left: NaN where it wrote nothing, infinity where it wrote NaN.
float written(std::uint32_t bits) {
    const auto value = std::bit_cast<float>(bits);
    return bits == ~0u ? kNan : std::isnan(value) ? std::numeric_limits<float>::infinity() : value;
}
float written(std::uint16_t bits) {
    const float value = half_value(bits);
    return bits == 0xffff ? kNan : std::isnan(value) ? std::numeric_limits<float>::infinity() : value;
}
template <typename Bits>
std::vector<float> written(const GuardedBuffer& buffer) {
    std::vector<float> result;
    for (const Bits bits : buffer.contents<Bits>()) result.push_back(written(bits));
    return result;
}

/// A cache, the outputs of the stage, and what they should be.
struct Rig {
    Rig(vk::Device& dev, const SummarizeCase& summarize_case, TestCache test_cache)
        : device(dev),
          c(summarize_case),
          cache(std::move(test_cache)),
          super_first(c.unit == 0 ? 0 : cache.n_physical * kBlock / c.unit),
          super_stride(c.shape.n_tokens / kSuper + 2),
          n_rows(c.unit == 0 ? 0 : super_first + c.shape.n_kv_heads * super_stride),
          low(dev, "min", bytes(n_rows * c.shape.head_dim, element())),
          high(dev, "max", bytes(n_rows * c.shape.head_dim, element())),
          sum(dev, "sum", bytes(n_rows * c.shape.head_dim, 4)),
          index_keys(dev, "index_keys",
                     bytes(c.index_dim == 0 ? 0 : cache.n_rows(), index_row_bytes(c.index_type, c.index_dim))),
          index_codes(dev, "index_codes", bytes(c.codes ? cache.n_rows() * index_code_words(c.index_dim) : 0, 2)),
          index_sums(dev, "index_sums", bytes(c.index_unit == 0 ? 0 : cache.n_rows() / c.index_unit * c.index_dim, 4)) {
        ReplicableRng rng(c.index_dim);
        if (c.codes)
            codes =
                random_codes(c.shape.n_kv_heads, c.index_dim, 0.25f * std::sqrt(static_cast<float>(c.shape.head_dim)));
        maps = rng.normals(kFirstMap + std::size_t{c.shape.n_kv_heads} * 2 * c.index_dim * c.shape.head_dim, 0, 0.25f);
    }
    static std::size_t bytes(std::size_t n, std::size_t element) { return std::max<std::size_t>(n * element, 16); }
    std::size_t element() const { return summary_element_bytes(c.shape.kv_type); }

    void run(const SummarizeBlock& stage, std::uint32_t from = 0,
             std::uint32_t to = ~0u) const {  // chunks inside [from, to)
        const vk::Buffer tables = make_buffer(device, std::span<const std::uint32_t>(cache.table()));
        const vk::Buffer keys = cache.upload(device, cache.keys);
        const vk::Buffer map_buffer = make_buffer(device, std::span<const float>(maps));
        std::vector<std::uint32_t> code_words(kFirstCode);
        for (const std::uint32_t word : pack_code_tables(codes, std::max(c.index_dim, 1u))) code_words.push_back(word);
        const vk::Buffer table_buffer = make_buffer(device, std::span<const std::uint32_t>(code_words));
        std::vector<std::uint32_t> ends = c.cuts;
        ends.push_back(c.shape.n_tokens);
        vk::run_once(device, [&](vk::Recorder& recorder) {
            std::uint32_t begin = 0;
            for (const std::uint32_t end : ends) {
                if (begin >= from && end <= to)
                    stage.record(recorder,
                                 {tables, keys, low.range(), high.range(), sum.range(), map_buffer, index_keys.range(),
                                  index_sums.range(), index_codes.range(), table_buffer},
                                 {end - begin, begin, TestCache::table_offset, cache.table_stride, kFirstMap,
                                  super_first, super_stride, kFirstCode});
                recorder.barrier();
                begin = end;
            }
        });
    }
    std::vector<float> extremes(const GuardedBuffer& b) const {
        return c.shape.kv_type != KvType::kF32 ? written<std::uint16_t>(b) : written<std::uint32_t>(b);
    }
    void expect_right() const {
        SCOPED_TRACE(c.text());
        if (c.unit != 0) expect_summaries();
        else
            for (const GuardedBuffer* b : {&low, &high, &sum}) b->expect_untouched();
        if (c.codes) expect_codes();
        else index_codes.expect_untouched();
        if (c.index_dim != 0) expect_index_keys();
        else
            for (const GuardedBuffer* b : {&index_keys, &index_sums}) b->expect_untouched();
    }
    // Minimum and maximum are keys, so they are exact, but for those of a quantised cache, which are stored as halves.
    // A sum rounds once for each of its tokens, which are added one by one; those of a TestCache of floats are exact.
    void expect_summaries() const {
        const std::size_t dim = c.shape.head_dim;
        const bool quantized = is_quantized(c.shape.kv_type);
        const auto stored = [&](double key) { return quantized ? storing_error(KvType::kF16, key, 0) : 0; };
        std::vector<double> ref_low(n_rows * dim, double{kNan}), ref_high = ref_low, ref_sum = ref_low;
        std::vector<double> low_allowance(n_rows * dim), high_allowance(n_rows * dim), allowance(n_rows * dim);
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) {
            if (cache.heads[h].window != 0) continue;
            for (const std::uint32_t unit : {c.unit, kSuper}) {
                for (std::uint32_t t = 0; t < c.shape.n_tokens; t += unit) {
                    const std::uint32_t end = std::min(t + unit, c.shape.n_tokens);
                    const reference::Summary s = reference::summarize_block(cache.view(), h, t, end);
                    const std::size_t at =
                        (unit == kSuper ? super_first + h * super_stride + t / kSuper : cache.heads[h].row(t) / unit) *
                        dim;
                    for (std::size_t i = 0; i < dim; ++i) {
                        ref_low[at + i] = s.min[i];
                        ref_high[at + i] = s.max[i];
                        ref_sum[at + i] = s.sum[i];
                        low_allowance[at + i] = stored(s.min[i]);
                        high_allowance[at + i] = stored(s.max[i]);
                        allowance[at + i] = exact_sums && !quantized ? 0 : (end - t) * kRounding * s.terms[i];
                    }
                }
            }
        }
        expect_close(extremes(low), ref_low, low_allowance, "min");
        expect_close(extremes(high), ref_high, high_allowance, "max");
        expect_close(written<std::uint32_t>(sum), ref_sum, allowance, "sum");
    }
    // A key rounds once for each channel, added one by one, and to a half. A sum is one of the halves, which are what
    // is scored.
    void expect_index_keys() const {
        const std::size_t dim = c.index_dim, map = dim * c.shape.head_dim;
        const std::vector<float> got = unpack_index_rows(c.index_type, c.index_dim, index_keys.bytes());
        std::vector<double> ref(got.size(), double{kNan}), allowance(got.size());
        std::vector<double> ref_sum(c.index_unit == 0 ? 4 : cache.n_rows() / c.index_unit * dim, double{kNan}),
            sum_allowance(ref_sum.size());
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h) {
            if (cache.heads[h].window != 0) continue;
            for (std::uint32_t t = 0; t < c.shape.n_tokens; ++t) {
                const reference::IndexKey key = reference::index_key(
                    cache.view(), h, t, std::span<const float>(maps).subspan(kFirstMap + (2 * h + 1) * map, map));
                const std::size_t row = cache.heads[h].row(t);
                double largest = 0;
                for (const double x : key.value) largest = std::max(largest, std::abs(x));
                for (std::size_t r = 0; r < dim; ++r) {
                    ref[row * dim + r] = key.value[r];
                    allowance[row * dim + r] = index_storing_error(c.index_type, key.value[r], largest) +
                                               kRounding * c.shape.head_dim * key.terms[r];
                    if (c.index_unit == 0) continue;
                    double& total = ref_sum[row / c.index_unit * dim + r];
                    const double half = double{got[row * dim + r]};
                    total = (t % c.index_unit == 0 ? 0 : total) + half;
                    sum_allowance[row / c.index_unit * dim + r] += c.index_unit * kRounding * std::abs(half);
                }
            }
        }
        expect_close(got, ref, allowance, "index keys");
        expect_close(written<std::uint32_t>(index_sums), ref_sum, sum_allowance, "index sums");
    }
    // Exactly those of the keys as they were stored; untouched where no token is.
    void expect_codes() const {
        const std::size_t dim = c.index_dim;
        const std::vector<float> keys = unpack_index_rows(c.index_type, c.index_dim, index_keys.bytes());
        const std::vector<std::uint16_t> plane = index_codes.contents<std::uint16_t>();
        std::vector<std::uint16_t> expected(plane.size(), 0xffff);
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
            for (std::uint32_t t = 0; cache.heads[h].window == 0 && t < c.shape.n_tokens; ++t) {
                const std::size_t row = cache.heads[h].row(t);
                pack_code_row(expected, codes, h, c.index_dim, row, std::span(keys).subspan(row * dim, dim));
            }
        EXPECT_TRUE(plane == expected);
    }
    std::vector<std::vector<std::byte>> all_bytes() const {
        return {low.bytes(), high.bytes(), sum.bytes(), index_keys.bytes(), index_codes.bytes(), index_sums.bytes()};
    }

    vk::Device& device;
    SummarizeCase c;
    TestCache cache;
    std::uint32_t super_first, super_stride, n_rows;
    GuardedBuffer low, high, sum, index_keys, index_codes, index_sums;
    std::vector<float> maps;
    IndexCodes codes;
    bool exact_sums = true;
};

class SummarizeBlockTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static const SummarizeBlock& stage(const SummarizeCase& c) {
        const CacheShape& s = c.shape;
        std::unique_ptr<SummarizeBlock>& result =
            stages_[fmt::format("{} {} {} {} {} {} {} {}", s.head_dim, static_cast<int>(s.kv_type), s.n_kv_heads,
                                c.unit, c.index_dim, c.index_unit, static_cast<int>(c.index_type), c.codes)];
        if (!result)
            result = std::make_unique<SummarizeBlock>(
                device(), SummarizeBlock::Config{s.n_kv_heads, s.head_dim, s.kv_type, kBlock, c.unit, c.index_dim,
                                                 c.index_unit, c.index_type, c.codes});
        return *result;
    }
    static void check(const SummarizeCase& c) {
        const Rig rig(device(), c, TestCache(c.shape));
        rig.run(stage(c));
        rig.expect_right();
    }

private:
    static std::map<std::string, std::unique_ptr<SummarizeBlock>> stages_;
};
std::map<std::string, std::unique_ptr<SummarizeBlock>> SummarizeBlockTest::stages_;

constexpr std::uint32_t kLengths[] = {1, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 2300};

TEST_F(SummarizeBlockTest, EveryLength) {
    for (const auto& [type, unit] :
         {std::pair{KvType::kF16, 64u}, {KvType::kF32, 16u}, {KvType::kQ8_0, 64u}, {KvType::kQ4_0, 16u}})
        for (const std::uint32_t n : kLengths) check({.shape = {.n_tokens = n, .kv_type = type}, .unit = unit});
}

TEST_F(SummarizeBlockTest, EveryHeadShape) {
    for (const std::uint32_t head_dim : {64u, 80u, 128u, 256u}) {
        check({.shape = {.n_tokens = 401, .head_dim = head_dim, .kv_type = KvType::kF16, .n_kv_heads = 3}, .unit = 32});
        check({.shape = {.n_tokens = 401, .head_dim = head_dim, .kv_type = KvType::kF32, .n_kv_heads = 1}, .unit = 64});
    }
}

TEST_F(SummarizeBlockTest, ChunksEndAnywhere) {
    for (const auto& [type, unit] : {std::pair{KvType::kF16, 16u}, {KvType::kF32, 64u}}) {
        const CacheShape shape{.n_tokens = 2300, .kv_type = type};
        check({.shape = shape, .unit = unit, .index_dim = 8, .cuts = {1, 15, 16, 17, 18, 63, 64, 65, 1000, 1023}});
        check({.shape = shape, .unit = unit, .index_dim = 8, .cuts = {500, 1024, 1025, 2047, 2049, 2299}});
        check({.shape = shape, .unit = unit, .index_dim = 8, .cuts = {64, 128, 1024, 2048}});
    }
}

TEST_F(SummarizeBlockTest, IndexKeysAtEveryLength) {
    for (const std::uint32_t n : kLengths)
        check({.shape = {.n_tokens = n}, .unit = 0, .index_dim = 16, .index_unit = 32});
}

TEST_F(SummarizeBlockTest, IndexKeysOfEveryShape) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t head_dim : {type == KvType::kF16 ? 64u : 80u, type == KvType::kF16 ? 256u : 128u})
            check({.shape = {.n_tokens = 133, .head_dim = head_dim, .kv_type = type},
                   .unit = 0,
                   .index_dim = 16,
                   .index_unit = 16});
        for (const std::uint32_t index_dim : {8u, 64u})
            check({.shape = {.n_tokens = 333, .kv_type = type}, .unit = 32, .index_dim = index_dim, .cuts = {100}});
    }
}

TEST_F(SummarizeBlockTest, IndexKeysOfEightBits) {
    for (const KvType type : {KvType::kF16, KvType::kQ8_0})
        for (const std::uint32_t index_dim : {8u, 16u, 64u})
            for (const std::uint32_t index_unit : {0u, 64u})  // 0: no sums
                check({.shape = {.n_tokens = 1100, .kv_type = type},
                       .unit = 0,
                       .index_dim = index_dim,
                       .index_unit = index_unit,
                       .index_type = IndexType::kInt8,
                       .cuts = {100, 1025}});
}

TEST_F(SummarizeBlockTest, CodesOfIndexKeys) {
    for (const std::uint32_t n : kLengths)
        check({.shape = {.n_tokens = n}, .unit = 0, .index_dim = 16, .index_unit = 0, .codes = true});
    for (const std::uint32_t index_dim : {8u, 24u, 32u, 64u})
        check({.shape = {.n_tokens = 333}, .unit = 0, .index_dim = index_dim, .codes = true, .cuts = {100}});
    for (const KvType type : {KvType::kF32, KvType::kQ8_0})
        check({.shape = {.n_tokens = 1100, .kv_type = type},
               .unit = 0,
               .index_dim = 16,
               .index_unit = 0,
               .index_type = IndexType::kInt8,
               .codes = true,
               .cuts = {63, 64, 1025}});
}

// A whole superblock of the widest keys: what one invocation does must stay below the loop limit of llvmpipe
// (runtime/vk/quirks.h).
TEST_F(SummarizeBlockTest, WidestIndexKeysOfASuperblock) {
    for (const IndexType type : {IndexType::kF16, IndexType::kInt8})
        check({.shape = {.n_tokens = 1100, .head_dim = 256, .n_kv_heads = 1},
               .unit = 0,
               .index_dim = 64,
               .index_type = type,
               .codes = true});
}

TEST_F(SummarizeBlockTest, SumsOfAnyKeys) {
    const SummarizeCase c{.shape = {.n_tokens = 1500, .kv_type = KvType::kF32}, .cuts = {700}};
    TestCache cache(c.shape);
    ReplicableRng rng(3);
    for (float& key : cache.keys)
        if (!std::isnan(key)) key = rng.normal(0.5f, 3);
    Rig rig(device(), c, cache);
    rig.exact_sums = false;
    rig.run(stage(c));
    rig.expect_right();
}

TEST_F(SummarizeBlockTest, LargestHalves) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        const SummarizeCase c{.shape = {.n_tokens = 1100, .kv_type = type}};
        TestCache cache(c.shape);
        for (std::size_t i = 0; i < cache.keys.size();
             ++i)  // first channels: all large, then all negative, then a few large
            if (!std::isnan(cache.keys[i]))
                cache.keys[i] = i % 64 == 0 ? 65504.0f : i % 64 == 1 ? -65504.0f : i % 7 == 0 ? -32768.0f : 0.0f;
        const Rig rig(device(), c, cache);
        rig.run(stage(c));
        rig.expect_right();  // multiples of 32 of at most 2^26: exact
    }
}

TEST_F(SummarizeBlockTest, SkipsWindowedHeads) {
    const SummarizeCase c{.shape = {.n_tokens = 1100, .n_kv_heads = 3}, .index_dim = 8, .cuts = {300}};
    TestCache cache(c.shape);
    cache.set_window(1, 100, 4);
    const Rig rig(device(), c, cache);
    rig.run(stage(c));
    rig.expect_right();
}

TEST_F(SummarizeBlockTest, ForgetsWhatStoodThere) {
    const SummarizeCase c{.shape = {.n_tokens = 1100}, .unit = 16, .index_dim = 8, .cuts = {300}};
    Rig rig(device(), c, TestCache(c.shape));
    for (float& key : rig.cache.keys) key *= 4;  // another conversation's: would stay the extremes
    rig.run(stage(c));
    rig.expect_right();
    for (float& key : rig.cache.keys) key /= 4;
    rig.run(stage(c));
    rig.expect_right();
}

TEST_F(SummarizeBlockTest, ReadsTheKeysOfTheChunkOnly) {
    const SummarizeCase c{.shape = {.n_tokens = 1100}, .unit = 16, .index_dim = 8, .cuts = {301}};
    Rig rig(device(), c, TestCache(c.shape));
    const std::vector<float> keys = rig.cache.keys;
    rig.run(stage(c), 0, 301);
    for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
        for (std::uint32_t t = 0; t < 301; ++t) std::fill_n(&rig.cache.keys[rig.cache.key_at(h, t)], 64, kNan);
    rig.run(stage(c), 301);
    rig.cache.keys = keys;
    rig.expect_right();
}

TEST_F(SummarizeBlockTest, GivesTheSameBitsTwice) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        const SummarizeCase c{
            .shape = {.n_tokens = 2100, .kv_type = type}, .unit = 32, .index_dim = 16, .cuts = {333, 1025}};
        const Rig a(device(), c, TestCache(c.shape)), b(device(), c, TestCache(c.shape));
        a.run(stage(c));
        b.run(stage(c));
        EXPECT_EQ(a.all_bytes(), b.all_bytes());
        SummarizeCase whole = c;  // every channel adds its tokens in order, however they are cut into chunks
        whole.cuts = {};
        const Rig once(device(), whole, TestCache(c.shape));
        once.run(stage(c));
        EXPECT_EQ(once.all_bytes(), a.all_bytes());
    }
}

}  // namespace
}  // namespace winnow::test
