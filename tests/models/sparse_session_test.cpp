// SPDX-License-Identifier: Apache-2.0
// Everything at once: local heads in rings, index keys in 8 bits and quantised caches, against the same policy on a
// cache that keeps every token.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/model.h"
#include "models/sidecar.h"
#include "runtime/vk/device.h"
#include "shaders/common/interface.h"
#include "tests/support/close.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_model.h"
#include "winnow/session.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kTokens = 560, kDecoded = 12;
// The same values through other chunks: halves round elsewhere, and in a quantised cache a rounded half may become
// another code.
constexpr double kLimit = 1e-4;

struct Case {
    const char* preset;
    KvType type;
};

class SparseSessionTest : public GpuTest, public ::testing::WithParamInterface<Case> {
protected:
    SparseOptions sparse(const char* preset, float share) const {
        SparseOptions options;
        options.preset = preset;
        options.calibration = std::make_shared<Calibration>(assume_calibration(model_.shape(), share));
        options.overrides.window = 64;
        options.overrides.min_ctx = 0;
        options.overrides.index_type = IndexType::kInt8;
        return options;
    }
    std::unique_ptr<Session> open(const SparseOptions& options, std::uint32_t n_chunk) const {
        SessionOptions session;
        session.n_ctx = kTokens;
        session.n_chunk = n_chunk;
        session.kv_type = GetParam().type;
        session.sparse = options;
        return make_session(vk::Device::open({}), model_.source(), session);
    }
    // Logits of the last tokens, decoded one by one behind a prefill of the others.
    std::vector<float> decoded(Session& session) const {
        session.prefill(std::span(tokens_).first(kTokens - kDecoded));
        std::vector<float> logits;
        for (std::uint32_t i = kTokens - kDecoded; i < kTokens; ++i) {
            const std::span<const float> row = session.decode_logits(tokens_[i]);
            logits.insert(logits.end(), row.begin(), row.end());
        }
        return logits;
    }

    TinyModel model_{Flavour::kLlama};
    std::vector<std::int32_t> tokens_ = random_tokens(kTokens);
};

TEST_P(SparseSessionTest, RingsHoldWhatTheirHeadsSee) {
    const SparseOptions policy = sparse(GetParam().preset, 0.5f);
    const auto full = open({}, 64);
    full->use_sparse(policy);
    const std::vector<float> wanted = decoded(*full);
    for (const float logit : wanted) ASSERT_TRUE(std::isfinite(logit));
    for (const std::uint32_t n_chunk : {48u, 512u}) {  // within what a ring has to spare, and beyond it
        const auto rings = open(policy, n_chunk);
        EXPECT_LT(rings->memory().kv_bytes, full->memory().kv_bytes);
        const std::vector<float> got = decoded(*rings);
        expect_nmse(got, std::vector<double>(wanted.begin(), wanted.end()), kLimit,
                    fmt::format("chunks of {}", n_chunk).c_str());
        EXPECT_LT(rings->sparse_report().attended_share, 1);
    }
}

TEST_P(SparseSessionTest, KeepingEverythingIsDense) {
    const auto dense = open({}, 64);
    const std::vector<float> wanted = decoded(*dense);
    SparseOptions policy = sparse(GetParam().preset, 1);
    if (std::string(GetParam().preset) == "rtpurbo") policy.overrides.mass = 1;
    const auto session = open(policy, 512);
    const std::vector<float> got = decoded(*session);
    expect_nmse(got, std::vector<double>(wanted.begin(), wanted.end()), kLimit, "every head keeps everything");
}

std::string case_name(const ::testing::TestParamInfo<Case>& test) {
    constexpr const char* kNames[] = {"f16", "f32", "q8_0", "q4_0"};
    const KvType types[] = {KvType::kF16, KvType::kF32, KvType::kQ8_0, KvType::kQ4_0};
    for (std::size_t i = 0; i < 4; ++i)
        if (types[i] == test.param.type) return fmt::format("{}_{}", test.param.preset, kNames[i]);
    return "unknown";
}

INSTANTIATE_TEST_SUITE_P(All, SparseSessionTest,
                         ::testing::Values(Case{"rtpurbo", KvType::kF16}, Case{"rtpurbo", KvType::kF32},
                                           Case{"rtpurbo", KvType::kQ8_0}, Case{"rtpurbo", KvType::kQ4_0},
                                           Case{"duo", KvType::kQ8_0}),
                         case_name);

class SparseReportTest : public GpuTest {};

// What a step attended to is read when later ones may have run. The answer passes the end of the ring of counts.
TEST_F(SparseReportTest, StepsQueuedAheadChangeNoReport) {
    constexpr std::uint32_t kPrompt = WINNOW_TOKEN_RING - 20, kSteps = 48;
    const TinyModel model(Flavour::kLlama);
    const std::vector<std::int32_t> prompt = random_tokens(kPrompt);
    for (const char* preset : {"quest", "exact"}) {
        SCOPED_TRACE(preset);
        std::vector<std::int32_t> answers[2];
        SparseReport reports[2];
        for (const int ahead : {0, 1}) {
            SessionOptions options;
            options.n_ctx = kPrompt + kSteps;
            options.steps_in_flight = ahead != 0 ? 8 : 1;
            options.sparse.preset = preset;
            options.sparse.overrides.every_layer = true;
            options.sparse.overrides.window = 16;
            options.sparse.overrides.min_ctx = 0;
            if (std::string(preset) == "quest") options.sparse.overrides.budget = 64;
            else options.sparse.overrides.mass = 0.5f;
            const auto session = make_session(vk::Device::open({}), model.source(), options);
            SamplingOptions greedy;
            greedy.temperature = 0;
            session->start(prompt, greedy, {}, kSteps);
            while (const auto token = session->next()) answers[ahead].push_back(*token);
            session->finish();
            reports[ahead] = session->sparse_report();
        }
        ASSERT_EQ(answers[0].size(), kSteps);
        ASSERT_EQ(answers[1], answers[0]);
        EXPECT_EQ(reports[0].n_steps, kSteps);
        EXPECT_EQ(reports[1].n_steps, kSteps);
        EXPECT_LT(reports[0].attended_share, 0.9);
        EXPECT_EQ(reports[1].attended_share, reports[0].attended_share);
        EXPECT_EQ(reports[1].kv_bytes_per_token, reports[0].kv_bytes_per_token);
        EXPECT_EQ(reports[1].layer_head_share, reports[0].layer_head_share);
    }
}

}  // namespace
}  // namespace winnow::test
