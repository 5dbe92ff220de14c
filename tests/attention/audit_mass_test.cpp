// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/audit_mass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/vk/timeline.h"
#include "tests/reference/attend_sparse.h"
#include "tests/reference/audit_mass.h"
#include "tests/support/dense_data.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kFirstCounter = 3, kFirstRecord = 5;
constexpr double kLeast = 0x1p-126;  // what is smaller may be zero

struct AuditCase {
    CacheShape shape;
    std::uint32_t n_splits = 3, sinks = 4;
    double share = 0.3;  ///< of the tokens that were attended

    std::string text() const {
        return fmt::format("{} splits {} sinks {} share {}", shape.text(), n_splits, sinks, share);
    }
};

/// The stage with a cache and the lse of an attention over the sinks, the last token and some others, or whatever one
/// sets.
struct Rig {
    Rig(vk::Device& dev, const AuditCase& audit_case, TestCache test_cache)
        : device(dev), c(audit_case), cache(std::move(test_cache)) {
        ReplicableRng rng(c.shape.n_tokens);
        std::vector<std::vector<std::uint32_t>> tokens(c.shape.n_kv_heads);
        for (std::uint32_t h = 0; h < c.shape.n_kv_heads; ++h)
            for (std::uint32_t t = 0; t < c.shape.n_tokens; ++t)
                if (cache.heads[h].sees(c.shape.position(), t) &&
                    (t < c.sinks || t == c.shape.position() || rng.uniform() < c.share))
                    tokens[h].push_back(t);
        for (const double x : reference::attend_sparse(cache.query, cache.view(), tokens).lse)
            lse.push_back(static_cast<float>(x));
    }

    /// Records of all query heads: mass, mass without sinks.
    std::vector<float> run(const AuditMass& stage, bool stopped = false) const {
        const CacheShape& s = c.shape;
        const auto buffer = [&](const auto& values) { return make_buffer(device, std::span(values)); };
        const std::vector<std::uint32_t> zeros(kFirstCounter + s.n_kv_heads + 2);
        const vk::Buffer state = make_sparse_state(device, s.position(), stopped), tables = buffer(cache.table()),
                         keys = cache.upload(device, cache.keys), query = buffer(cache.query), lse_buffer = buffer(lse);
        const GuardedBuffer partials(device, "partials", std::size_t{s.n_heads()} * c.n_splits * 16);
        const GuardedBuffer counters(device, "counters", std::as_bytes(std::span(zeros)));
        const GuardedBuffer records(device, "records", (kFirstRecord + s.n_heads() + 1) * 8);
        vk::run_once(device, [&](vk::Recorder& recorder) {
            stage.record(recorder,
                         {state, tables, keys, query, lse_buffer, partials.range(), counters.range(), records.range()},
                         {TestCache::table_offset, cache.table_stride, kFirstCounter, c.sinks, kFirstRecord});
        });
        partials.bytes();  // looks at its canaries
        for (const std::uint32_t counter : counters.contents<std::uint32_t>()) EXPECT_EQ(counter, 0u);
        std::vector<float> all = records.contents<float>();
        for (std::size_t i = 0; i < kFirstRecord * 2; ++i) EXPECT_TRUE(std::isnan(all[i])) << "word " << i;
        for (std::size_t i = all.size() - 2; i < all.size(); ++i) EXPECT_TRUE(std::isnan(all[i])) << "word " << i;
        return {all.begin() + kFirstRecord * 2, all.end() - 2};
    }

    // Masses err relatively, as weights do: by the error of scores, which is that of their terms, by exp's, of which
    // the weighted mean is at most log n, and by a sum over n tokens, of which a lane group takes every fourth at most,
    // one after another (attend_dense_test). exp(lse - maximum) adds its argument, about log(mass) and log n again, and
    // the rounding of |lse|.
    double relative_error(std::uint32_t head, double mass) const {
        const double n = c.shape.n_tokens;
        return kRounding * ((8 + std::sqrt(n / 4)) * (1 + cache.score_terms(head) + 2 * std::log(n)) +
                            std::abs(double{lse[head]}) + std::abs(std::log(mass)));
    }
    void expect_right(const std::vector<float>& records) const {
        SCOPED_TRACE(c.text());
        const std::vector<reference::CapturedMass> ref = reference::audit_mass(
            cache.query, cache.view(), c.shape.position(), c.sinks, std::vector<double>(lse.begin(), lse.end()));
        ASSERT_EQ(records.size(), ref.size() * 2);
        for (std::uint32_t head = 0; head < ref.size(); ++head) {
            const double error = relative_error(head, std::max(ref[head].mass, kLeast));
            EXPECT_NEAR(double{records[2 * head]}, ref[head].mass, error * ref[head].mass + kLeast) << "head " << head;
            if (std::abs(ref[head].rest - 1e-3) < 2 * error) continue;  // either way
            // Everything, what was captured, and the sinks err as shares of everything; the rest is what remains of
            // them.
            const double without = ref[head].rest > 1e-3 ? error * 4 / ref[head].rest : 0;
            EXPECT_NEAR(double{records[2 * head + 1]}, ref[head].without_sinks, without) << "head " << head;
        }
    }

    vk::Device& device;
    AuditCase c;
    TestCache cache;
    std::vector<float> lse;
};

class AuditMassTest : public GpuTest {
protected:
    static void TearDownTestSuite() { stages_.clear(); }
    static const AuditMass& stage(const AuditCase& c) {
        const CacheShape& s = c.shape;
        std::unique_ptr<AuditMass>& result = stages_[fmt::format("{} {} {} {} {}", s.head_dim, s.n_group, s.n_kv_heads,
                                                                 static_cast<int>(s.kv_type), c.n_splits)];
        if (!result)
            result = std::make_unique<AuditMass>(
                device(), AuditMass::Config{s.n_heads(), s.n_kv_heads, s.head_dim, s.kv_type, kBlock, c.n_splits});
        return *result;
    }
    static Rig rig(const AuditCase& c) { return {device(), c, TestCache(c.shape)}; }
    static void check(const Rig& r) { r.expect_right(r.run(stage(r.c))); }
    static void check(const AuditCase& c) { check(rig(c)); }

private:
    static std::map<std::string, std::unique_ptr<AuditMass>> stages_;
};
std::map<std::string, std::unique_ptr<AuditMass>> AuditMassTest::stages_;

constexpr std::uint32_t kLengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 4103};

TEST_F(AuditMassTest, EveryLength) {
    for (const KvType type : {KvType::kF16, KvType::kF32})
        for (const std::uint32_t n_splits : {1u, 3u, 16u})
            for (const std::uint32_t n : kLengths)
                check({.shape = {.n_tokens = n, .kv_type = type}, .n_splits = n_splits});
}

TEST_F(AuditMassTest, EveryHeadShape) {
    for (const CacheShape& shape : {CacheShape{399, 64, 1, KvType::kF16},
                                    {399, 64, 7, KvType::kF32},
                                    {399, 80, 1, KvType::kF32},
                                    {399, 80, 4, KvType::kF16},
                                    {399, 128, 3, KvType::kF32},
                                    {399, 128, 4, KvType::kF16},
                                    {399, 256, 1, KvType::kF32},
                                    {399, 256, 3, KvType::kF16},
                                    {399, 64, 3, KvType::kQ8_0},
                                    {399, 80, 1, KvType::kQ4_0}})
        check({.shape = shape});
}

TEST_F(AuditMassTest, SinksAndSharesOfEverySize) {
    for (const std::uint32_t sinks : {0u, 1u, 64u, 100u, 1110u, 1111u, 3000u})
        for (const double share : {0.0, 0.01, 0.5, 1.0})
            check({.shape = {.n_tokens = 1111}, .sinks = sinks, .share = share});
}

TEST_F(AuditMassTest, WholeListCapturesEverything) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t n : kLengths) {
            for (const float spread : {0.0f, 2.0f, 8.0f}) {
                const Rig r = rig({.shape = {.n_tokens = n, .kv_type = type, .spread = spread}, .share = 1});
                const std::vector<float> records = r.run(stage(r.c));
                for (std::size_t i = 0; i < records.size(); i += 2) EXPECT_NEAR(records[i], 1, 1e-5) << r.c.text();
                r.expect_right(records);
            }
        }
    }
}

TEST_F(AuditMassTest, EqualScoresCountTokens) {
    for (const std::uint32_t n : {64u, 1000u}) {
        AuditCase c{.shape = {.n_tokens = n, .spread = 0}, .sinks = 10};
        Rig r = rig(c);
        std::fill(r.lse.begin(), r.lse.end(), std::log(40.0f));  // forty tokens, the sinks among them
        const std::vector<float> records = r.run(stage(c));
        for (std::size_t i = 0; i < records.size(); i += 2) {
            EXPECT_NEAR(double{records[i]}, 40.0 / n, 1e-6);
            EXPECT_NEAR(double{records[i + 1]}, 30.0 / (n - 10), 1e-6);
        }
    }
}

TEST_F(AuditMassTest, SinksThatHoldEverything) {
    AuditCase c{.shape = {.n_tokens = 700}, .share = 0.2};
    TestCache cache(c.shape);
    for (std::uint32_t h = 0; h < 2; ++h)  // token 2 wins in query head 0 of each kv head: nothing else is left to lose
        for (std::size_t i = 0; i < 64; ++i)
            cache.keys[cache.key_at(h, 2) + i] = cache.query[h * 3 * 64 + i] > 0 ? 8.0f : -8.0f;
    std::fill_n(cache.query.begin() + 64, 64, 0.0f);  // query head 1 cares for nothing
    const Rig r(device(), c, cache);
    const std::vector<float> records = r.run(stage(c));
    r.expect_right(records);
    EXPECT_EQ(records[1], 1.0f);
    EXPECT_LT(records[3], 0.9f);
}

TEST_F(AuditMassTest, FarScores) {
    const AuditCase c{.shape = {.n_tokens = 1021}};
    for (const float amplitude : {10.0f, 500.0f}) {
        TestCache cache(c.shape);
        for (float& q : cache.query) q *= amplitude;
        const Rig r(device(), c, cache);
        const std::vector<float> records = r.run(stage(c));
        for (const float x : records) ASSERT_TRUE(std::isfinite(x));
        r.expect_right(records);
    }
}

TEST_F(AuditMassTest, WindowedHeadsAgainstWhatTheySee) {
    for (const std::uint32_t window : {1u, 64u, 65u, 100u, 2000u}) {
        for (const std::uint32_t sinks : {0u, 4u, 70u}) {
            const AuditCase c{.shape = {.n_tokens = 900}, .sinks = std::min(sinks, 4u), .share = 0.5};
            TestCache cache(c.shape);
            cache.set_window(1, window, sinks);
            check({device(), c, cache});
        }
    }
}

TEST_F(AuditMassTest, GivesTheSameBitsTwice) {
    for (const std::uint32_t n_splits : {1u, 16u}) {
        const Rig r = rig({.shape = {.n_tokens = 4103}, .n_splits = n_splits});
        EXPECT_EQ(r.run(stage(r.c)), r.run(stage(r.c)));
    }
}

TEST_F(AuditMassTest, DoesNothingWhenStopped) {
    const Rig r = rig({.shape = {.n_tokens = 500}});
    for (const float x : r.run(stage(r.c), true)) ASSERT_TRUE(std::isnan(x));
}

}  // namespace
}  // namespace winnow::test
