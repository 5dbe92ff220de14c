// SPDX-License-Identifier: Apache-2.0
// The public class against attention in double over the tokens that it says it attended to.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/reference/indexer_score.h"
#include "tests/support/code_rows.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "tests/support/sparse_data.h"
#include "winnow/attention.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kHeads = 6, kKvHeads = 2, kGroup = kHeads / kKvHeads, kDim = 64;
constexpr std::size_t kRow = std::size_t{kKvHeads} * kDim;

AttentionConfig config(std::uint32_t capacity, KvType type = KvType::kF16) {
    AttentionConfig c;
    c.n_heads = kHeads;
    c.n_kv_heads = kKvHeads;
    c.head_dim = kDim;
    c.capacity = capacity;
    c.kv_type = type;
    return c;
}

struct Data {
    explicit Data(std::uint32_t n, std::uint64_t seed = 1) : rng(seed) {
        for (std::size_t i = 0; i < n * kRow; ++i) {
            keys.push_back(rounded_to_half(rng.normal()));
            values.push_back(rounded_to_half(rng.normal()));
        }
        query = rng.normals(kHeads * kDim, 0, 2.5f);
    }
    std::span<const float> rows(const std::vector<float>& all, std::uint32_t from, std::uint32_t n) const {
        return std::span(all).subspan(from * kRow, n * kRow);
    }
    ReplicableRng rng;
    std::vector<float> keys, values, query;
};

std::vector<std::uint32_t> attended_ids(const SparseAttention& attention, std::uint32_t kv_head) {
    const SparsePolicy& p = attention.policy();
    const std::vector<reference::HeadView> heads(kKvHeads);
    reference::SelectView view;
    view.cache.heads = heads;
    view.position = attention.n_tokens() - 1;
    view.sinks = p.sink;
    view.window = p.window;
    std::set<std::uint32_t> ids;
    for (std::uint32_t t = 0; t < std::min(p.sink, attention.n_tokens()); ++t) ids.insert(t);
    for (const std::uint32_t t : attention.selected(kv_head)) ids.insert(t);
    for (std::uint32_t t = view.middle_end(); t < attention.n_tokens(); ++t) ids.insert(t);
    return {ids.begin(), ids.end()};
}

// Output, captured mass and counts of the last step.
void expect_right(SparseAttention& attention, const Data& data, std::span<const float> output) {
    const std::vector<float> masses = attention.audit();
    const std::vector<std::uint32_t> counts = attention.attended();
    ASSERT_EQ(output.size(), std::size_t{kHeads} * kDim);
    ASSERT_EQ(masses.size(), kHeads);
    ASSERT_EQ(counts.size(), kKvHeads);
    for (std::uint32_t head = 0; head < kHeads; ++head) {
        const std::uint32_t kv_head = head / kGroup;
        std::vector<double> score(attention.n_tokens());
        double most = -std::numeric_limits<double>::infinity();
        for (std::uint32_t t = 0; t < score.size(); ++t) {
            for (std::uint32_t d = 0; d < kDim; ++d)
                score[t] +=
                    double{data.query[head * kDim + d]} * data.keys[t * kRow + kv_head * kDim + d] / std::sqrt(kDim);
            most = std::max(most, score[t]);
        }
        const std::vector<std::uint32_t> ids = attended_ids(attention, kv_head);
        EXPECT_EQ(counts[kv_head], ids.size());
        double all = 0, kept = 0;
        for (const double s : score) all += std::exp(s - most);
        std::vector<double> expected(kDim);
        for (const std::uint32_t t : ids) {
            const double weight = std::exp(score[t] - most);
            kept += weight;
            for (std::uint32_t d = 0; d < kDim; ++d) expected[d] += weight * data.values[t * kRow + kv_head * kDim + d];
        }
        EXPECT_NEAR(masses[head], kept / all, 1e-4) << "head " << head;
        for (std::uint32_t d = 0; d < kDim; ++d)
            EXPECT_NEAR(output[head * kDim + d], expected[d] / kept, 1e-4) << "head " << head << " dim " << d;
    }
}

template <typename Call>
void expect_refused(Call&& call, const std::string& part, ErrorCode code = ErrorCode::kInvalidArgument) {
    try {
        call();
        ADD_FAILURE() << "accepted; should say " << part;
    } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_EQ(error.code(), code) << text;
        EXPECT_NE(text.find(part), std::string::npos) << text;
        EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    }
}

class SparseAttentionTest : public GpuTest {};

TEST_F(SparseAttentionTest, StepsAreAttentionOverWhatIsSaidToBeAttended) {
    const Data data(1500);
    for (const auto& [preset, overrides] : {std::pair<const char*, SparseOverrides>{"exact", {.mass = 0.8f}},
                                            {"quest", {.budget = 300}},
                                            {"twilight", {}},
                                            {"tokenselect", {.budget = 700}},
                                            {"streaming", {.window = 200}}}) {
        SCOPED_TRACE(preset);
        SparseAttention attention({}, config(1500), make_sparse_attention_policy(preset, overrides));
        EXPECT_EQ(attention.policy().name, preset);
        for (std::uint32_t from = 0; from < 1499;
             from += 300)  // calls that end inside blocks, the last one short of the query's token
            attention.append(data.rows(data.keys, from, std::min(300u, 1499 - from)),
                             data.rows(data.values, from, std::min(300u, 1499 - from)));
        attention.append(data.rows(data.keys, 1499, 1), data.rows(data.values, 1499, 1));
        EXPECT_EQ(attention.n_tokens(), 1500u);
        const std::span<const float> output = attention.step(data.query);
        expect_right(attention, data, {output.begin(), output.end()});
        for (const std::uint32_t n : attention.attended()) EXPECT_LT(n, 1500u) << "the test says little";
        if (std::string(preset) == "exact") {
            for (const float mass : attention.audit()) EXPECT_GE(mass, 0.8f - 1e-3f);
        }
    }
}

TEST_F(SparseAttentionTest, GrowsTokenByToken) {
    const Data data(200, 2);
    SparseAttention attention({}, config(256), make_sparse_attention_policy("exact", {.mass = 0.7f, .window = 16}));
    for (std::uint32_t n : {1u, 63u, 64u, 65u, 127u, 129u, 200u}) {
        SCOPED_TRACE(fmt::format("{} tokens", n));
        attention.append(data.rows(data.keys, attention.n_tokens(), n - attention.n_tokens()),
                         data.rows(data.values, attention.n_tokens(), n - attention.n_tokens()));
        const std::span<const float> output = attention.step(data.query);
        expect_right(attention, data, output);
    }
}

TEST_F(SparseAttentionTest, DenseAndShortOnesAttendToEverything) {
    const Data data(100, 3);
    for (const auto& [preset, min_ctx] : {std::pair{"dense", -1}, {"exact", 101}}) {
        SCOPED_TRACE(preset);
        SparseAttention attention({}, config(100), make_sparse_attention_policy(preset, {.min_ctx = min_ctx}));
        attention.append(data.keys, data.values);
        attention.step(data.query);
        EXPECT_EQ(attention.attended(), std::vector<std::uint32_t>(kKvHeads, 100));
        EXPECT_EQ(attention.audit(), std::vector<float>(kHeads, 1.0f));
        EXPECT_TRUE(attention.selected(0).empty());
    }
}

// What the last step did stays what it did when tokens are appended.
TEST_F(SparseAttentionTest, ReportsBelongToTheLastStep) {
    const Data data(300, 9);
    SparseAttention attention({}, config(300),
                              make_sparse_attention_policy("exact", {.mass = 0.7f, .window = 16, .min_ctx = 200}));
    EXPECT_EQ(attention.attended(), std::vector<std::uint32_t>(kKvHeads, 0));
    expect_refused([&] { attention.audit(); }, "step");
    attention.append(data.rows(data.keys, 0, 100), data.rows(data.values, 0, 100));
    attention.step(data.query);
    attention.append(data.rows(data.keys, 100, 150), data.rows(data.values, 100, 150));
    EXPECT_EQ(attention.attended(), std::vector<std::uint32_t>(kKvHeads, 100));
    EXPECT_EQ(attention.audit(), std::vector<float>(kHeads, 1.0f));
    attention.step(data.query);
    const std::vector<float> masses = attention.audit();
    const std::vector<std::uint32_t> counts = attention.attended();
    attention.append(data.rows(data.keys, 250, 50), data.rows(data.values, 250, 50));
    EXPECT_EQ(attention.audit(), masses);
    EXPECT_EQ(attention.attended(), counts);
    attention.clear();
    expect_refused([&] { attention.audit(); }, "step");
}

TEST_F(SparseAttentionTest, ClearForgetsEverything) {
    const Data first(900, 4), second(700, 5);
    const SparsePolicy policy =
        make_sparse_attention_policy("recycled", {.budget = 200});  // whose lists outlive a step
    SparseAttention attention({}, config(1000), policy);
    const std::uint64_t bytes = attention.device_bytes();
    attention.append(first.keys, first.values);
    attention.step(first.query);
    attention.clear();
    EXPECT_EQ(attention.n_tokens(), 0u);
    expect_refused([&] { attention.step(first.query); }, "empty");
    attention.append(second.keys, second.values);
    const std::span<const float> again = attention.step(second.query);
    expect_right(attention, second, again);
    const std::vector<float> kept(again.begin(), again.end());
    SparseAttention fresh({}, config(1000), policy);
    fresh.append(second.keys, second.values);
    const std::span<const float> expected = fresh.step(second.query);
    EXPECT_EQ(kept, std::vector<float>(expected.begin(), expected.end()));
    EXPECT_EQ(attention.device_bytes(), bytes);
}

// Index keys enter the sums of their block once: steps between the appends, dense or selecting, change nothing.
TEST_F(SparseAttentionTest, StepsBetweenAppendsLeaveIndexKeysAlone) {
    constexpr std::uint32_t kTokens = 400, kFirst = 100, kIndexDim = 16;
    const Data data(kTokens, 7);
    ReplicableRng rng(8);
    SparsePolicy policy = make_preset("hisa", {false});
    policy.needs_sidecar = false;
    policy.index_dim = kIndexDim;
    policy.index_maps =
        std::make_shared<std::vector<float>>(rng.normals(std::size_t{kKvHeads} * 2 * kIndexDim * kDim, 0, 0.25f));
    policy.levels[0].budget = 192;  // three of the five blocks of the middle
    policy.levels[1].budget = policy.sink + policy.window + 48;
    policy.index_codes = std::make_shared<IndexCodes>(random_codes(kKvHeads, kIndexDim, 2));
    for (const auto& [min_ctx, by_codes] : {std::pair{0u, false}, {250u, false}, {0u, true}, {250u, true}}) {
        SCOPED_TRACE(min_ctx);
        policy.min_ctx = min_ctx;
        policy.levels[0].scorer = by_codes ? Scorer::kCodes : Scorer::kLowdimMean;
        policy.levels[0].unit = by_codes ? 1 : 64;
        SparseAttention bulk({}, config(kTokens), policy);
        bulk.append(data.keys, data.values);
        const std::span<const float> expected = bulk.step(data.query);
        SparseAttention grown({}, config(kTokens), policy);
        grown.append(data.rows(data.keys, 0, kFirst), data.rows(data.values, 0, kFirst));
        for (std::uint32_t t = kFirst; t < kTokens; ++t) {
            grown.append(data.rows(data.keys, t, 1), data.rows(data.values, t, 1));
            grown.step(data.query);
        }
        const std::span<const float> got = grown.step(data.query);
        for (std::uint32_t h = 0; h < kKvHeads; ++h) {
            EXPECT_EQ(bulk.selected(h).size(), 48u);
            EXPECT_EQ(grown.selected(h), bulk.selected(h)) << "kv head " << h;
        }
        EXPECT_EQ(std::vector<float>(got.begin(), got.end()), std::vector<float>(expected.begin(), expected.end()));
    }
}

TEST_F(SparseAttentionTest, RefusesWhatDoesNotFit) {
    const Data data(100, 6);
    SparseAttention attention({}, config(100), make_sparse_attention_policy("exact"));
    expect_refused([&] { attention.step(data.query); }, "empty");
    expect_refused([&] { attention.append(std::span(data.keys).first(kRow), std::span(data.values).first(kRow - 1)); },
                   "whole tokens");
    expect_refused(
        [&] { attention.append(std::span(data.keys).first(kRow + 1), std::span(data.values).first(kRow + 1)); },
        "whole tokens");
    attention.append(data.rows(data.keys, 0, 99), data.rows(data.values, 0, 99));
    expect_refused([&] { attention.append(data.rows(data.keys, 0, 2), data.rows(data.values, 0, 2)); },
                   "capacity of 100");
    EXPECT_EQ(attention.n_tokens(), 99u);
    expect_refused([&] { attention.step(std::span(data.query).first(kDim)); }, "query");
    expect_refused([&] { attention.selected(kKvHeads); }, "kv head");
}

// A device that does not exist is never noticed: what is wrong with the request comes first.
TEST_F(SparseAttentionTest, RefusesBadPoliciesBeforeAnythingIsAllocated) {
    DeviceOptions nowhere;
    nowhere.select = "no-such-device";
    const SparsePolicy good = make_sparse_attention_policy("exact");
    const auto open = [&](const AttentionConfig& c, const SparsePolicy& p) { SparseAttention(nowhere, c, p); };
    expect_refused([&] { open(config(100), good); }, "no-such-device", ErrorCode::kNoDevice);
    const auto refused = [&](auto spoil, const char* part) {
        SparsePolicy p = good;
        spoil(p);
        expect_refused([&] { open(config(100), p); }, part);
    };
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    refused([](SparsePolicy& p) { p.levels[0].mass = nan; }, "mass");
    refused([](SparsePolicy& p) { p.levels[0].threshold = -1; }, "threshold");
    refused([](SparsePolicy& p) { p.levels[0].threshold = nan; }, "threshold");
    refused([](SparsePolicy& p) { p.value_skip = nan; }, "value skip");
    refused([](SparsePolicy& p) { p.value_skip = -1; }, "value skip");
    refused([](SparsePolicy& p) { p.cosine = nan; }, "cosine");
    refused([](SparsePolicy& p) { p.cosine = -0.5f; }, "cosine");
    refused([](SparsePolicy& p) { p.index_dim = 17; }, "index_dim of 17");
    refused([](SparsePolicy& p) { p.index_dim = 16; }, "index maps");
    refused([](SparsePolicy& p) { p.local_heads = {0, 1}; }, "local heads");
    refused([](SparsePolicy& p) { p.layers.emplace_back(); }, "layers");
    refused([](SparsePolicy& p) { p.layers[0].kind = LayerKind::kWindowOnly, p.window = 0; }, "window is 0");
    refused([](SparsePolicy& p) { p.layers[0].kind = LayerKind::kReuse; }, "reuses");
    expect_refused([&] { open(config(0), good); }, "capacity");
    AttentionConfig bad = config(100);
    bad.n_heads = 5;
    expect_refused([&] { open(bad, good); }, "do not divide");
    bad = config(100);
    bad.head_dim = 260;
    expect_refused([&] { open(bad, good); }, "head_dim");
    expect_refused([&] { make_sparse_attention_policy("fasa"); }, "index projections");
}

}  // namespace
}  // namespace winnow::test
