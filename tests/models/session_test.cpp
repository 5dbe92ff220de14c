// SPDX-License-Identifier: Apache-2.0
// A whole tiny model against an evaluation in double, however the prompt is cut into chunks.
#include "winnow/session.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "models/model.h"
#include "runtime/vk/device.h"
#include "tests/support/close.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_model.h"

namespace winnow::test {
namespace {

// The bound for real models too: logits of a 16-bit cache and 15-bit activations, over everything a session does.
constexpr double kLimit = 5e-4;

void append(std::vector<float>& to, std::span<const float> values) {
    to.insert(to.end(), values.begin(), values.end());
}

class SessionTest : public GpuTest, public ::testing::WithParamInterface<Flavour> {
protected:
    void TearDown() override {
        log_.expect_silent();
        GpuTest::TearDown();
    }

    // Every session has a device of its own, with validation; its messages count when it has closed.
    std::unique_ptr<Session> open(std::uint32_t n_ctx, std::uint32_t n_chunk, const char* preset = "off") const {
        SessionOptions options;
        options.n_ctx = n_ctx;
        options.n_chunk = n_chunk;
        options.sparse.preset = preset;
        options.sparse.overrides.min_ctx = 0;
        return make_session(vk::Device::open(device_options_), model_.source(), options);
    }
    std::vector<float> evaluated(Session& session, const std::vector<std::int32_t>& tokens,
                                 const Session::Progress& progress = {}) const {
        std::vector<float> logits;
        session.evaluate(
            tokens,
            [&](std::uint32_t first, std::span<const float> rows) {
                EXPECT_EQ(logits.size(), std::size_t{first} * model_.shape().n_vocab);
                append(logits, rows);
            },
            progress);
        return logits;
    }
    std::vector<float> prefilled(const std::vector<std::int32_t>& tokens, std::uint32_t n_chunk,
                                 const Session::Progress& progress = {}) const {
        return evaluated(*open(static_cast<std::uint32_t>(tokens.size()), n_chunk), tokens, progress);
    }
    TinyModel model_{GetParam()};
    ValidationLog log_;
    DeviceOptions device_options_ = log_.device_options();
};

TEST_P(SessionTest, ChunksOfAPromptChangeNothing) {
    const std::vector<std::int32_t> tokens = random_tokens(560);
    const std::vector<double> expected = reference::forward(model_.reference(), tokens);
    for (const std::uint32_t n_chunk : {1u, 7u, 64u, 512u}) {
        std::vector<std::uint32_t> ends;
        const std::vector<float> logits = prefilled(tokens, n_chunk, [&](std::uint32_t done, std::uint32_t) {
            if (done > 0 && (ends.empty() || done != ends.back())) ends.push_back(done);
            return true;
        });
        // What the test asks for is what runs, if not for long: chunks shrink when they take long.
        ASSERT_GE(ends.size(), 2u);
        EXPECT_EQ(ends[0], n_chunk);
        EXPECT_EQ(ends.back(), tokens.size());
        for (std::size_t i = 1; i < ends.size(); ++i) EXPECT_LE(ends[i] - ends[i - 1], n_chunk);
        ASSERT_EQ(logits.size(), expected.size()) << n_chunk;
        expect_nmse(logits, expected, kLimit, fmt::format("chunks of {}", n_chunk).c_str());
    }
}

TEST_P(SessionTest, DecodingTokenByTokenEqualsPrefill) {
    const std::vector<std::int32_t> tokens = random_tokens(90);
    const auto session = open(90, 64);
    std::vector<float> logits;
    for (const std::int32_t token : tokens) append(logits, session->decode_logits(token));
    const std::vector<float> prefill = prefilled(tokens, 64);
    expect_nmse(logits, std::vector<double>(prefill.begin(), prefill.end()), kLimit, "decoded against prefilled");
    expect_nmse(logits, reference::forward(model_.reference(), tokens), kLimit, "decoded");
}

// As on a device that binds less than the large matrices of a model.
TEST_P(SessionTest, MatricesInRowRangesChangeNothing) {
    model_ = TinyModel(GetParam(), 0, WeightType::kF16, WeightType::kF16);  // a table of 41 KB; Q, K and V of 29 KB
    const std::vector<std::int32_t> tokens = random_tokens(100);
    const auto logits = [&](const char* preset) {
        const auto session = open(100, 64, preset);
        std::vector<float> rows = evaluated(*session, {tokens.begin(), tokens.end() - 20});
        for (std::size_t i = tokens.size() - 20; i < tokens.size(); ++i)
            append(rows, session->decode_logits(tokens[i]));
        return rows;
    };
    const std::vector<float> whole = logits("off"), selected = logits("quest");
    device_options_.max_matrix_bytes = 26000;
    {
        const auto device = vk::Device::open(device_options_);
        const ModelSource source = model_.source();
        const ModelWeights weights = upload_weights(*device, source.shape, source.tensors, 100);
        EXPECT_EQ(weights.table.size(), 2u);
        EXPECT_EQ(weights.output.size(), GetParam() == Flavour::kGemma3 ? 2u : 1u);  // the table, or a smaller one
        EXPECT_EQ(weights.layers[0].gate_up.size(), 4u);
        EXPECT_EQ(weights.layers[0].qkv.size(), 2u);
        EXPECT_EQ(weights.layers[1].qkv.size(), 1u);  // Q5_1
    }
    EXPECT_EQ(logits("off"), whole);
    EXPECT_EQ(logits("quest"), selected);  // what qkv writes for the selection, too
}

// The first chunk of a session has a submission for each layer, so that a stop after the first finds the others undone.
TEST_P(SessionTest, AChunkGivenUpLeavesTheCacheAsItWas) {
    // The last window of 16 begins at the end of a block: the longest chunk then fills the ring of windowed layers.
    constexpr std::uint32_t kCached = 270;
    const std::vector<std::int32_t> tokens = random_tokens(64), others = random_tokens(64, 1);
    const char* preset = GetParam() == Flavour::kGemma3 ? "off" : "quest";  // rings, or summaries
    const auto session = open(560, 64, preset), untouched = open(560, 64, preset);
    session->assume_cached(kCached);
    untouched->assume_cached(kCached);
    int n_asked = 0;
    session->prefill(others, [&](std::uint32_t done, std::uint32_t total) {
        EXPECT_EQ(done, 0u);
        EXPECT_EQ(total, 64u);
        ++n_asked;
        return false;
    });
    EXPECT_EQ(n_asked, 1);
    EXPECT_EQ(session->n_cached(), kCached);
    const auto next = [](Session& s) {
        const std::span<const float> row = s.decode_logits(7);
        return std::vector<float>(row.begin(), row.end());
    };
    EXPECT_EQ(next(*session), next(*untouched));
    EXPECT_EQ(evaluated(*session, tokens), evaluated(*untouched, tokens));
    EXPECT_EQ(next(*session), next(*untouched));
}

INSTANTIATE_TEST_SUITE_P(Flavours, SessionTest, ::testing::Values(Flavour::kLlama, Flavour::kQwen2, Flavour::kGemma3),
                         [](const auto& test) { return flavour_name(test.param); });

}  // namespace
}  // namespace winnow::test
