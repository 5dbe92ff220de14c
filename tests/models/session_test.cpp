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

class SessionTest : public GpuTest, public ::testing::WithParamInterface<Flavour> {
protected:
    std::unique_ptr<Session> open(std::uint32_t n_ctx, std::uint32_t n_chunk) const {
        SessionOptions options;
        options.n_ctx = n_ctx;
        options.n_chunk = n_chunk;
        return make_session(vk::Device::open({}), model_.source(), options);
    }
    std::vector<float> prefilled(const std::vector<std::int32_t>& tokens, std::uint32_t n_chunk) const {
        const auto session = open(static_cast<std::uint32_t>(tokens.size()), n_chunk);
        std::vector<float> logits;
        session->evaluate(tokens, [&](std::uint32_t first, std::span<const float> rows) {
            EXPECT_EQ(logits.size(), std::size_t{first} * model_.shape().n_vocab);
            logits.insert(logits.end(), rows.begin(), rows.end());
        });
        return logits;
    }

    TinyModel model_{GetParam()};
};

TEST_P(SessionTest, ChunksOfAPromptChangeNothing) {
    const std::vector<std::int32_t> tokens = random_tokens(560);
    const std::vector<double> expected = reference::forward(model_.reference(), tokens);
    for (const std::uint32_t n_chunk : {1u, 7u, 64u, 512u}) {
        const std::vector<float> logits = prefilled(tokens, n_chunk);
        ASSERT_EQ(logits.size(), expected.size()) << n_chunk;
        expect_nmse(logits, expected, kLimit, fmt::format("chunks of {}", n_chunk).c_str());
    }
}

TEST_P(SessionTest, DecodingTokenByTokenEqualsPrefill) {
    const std::vector<std::int32_t> tokens = random_tokens(90);
    const auto session = open(90, 64);
    std::vector<float> decoded;
    for (const std::int32_t token : tokens) {
        const std::span<const float> row = session->decode_logits(token);
        decoded.insert(decoded.end(), row.begin(), row.end());
    }
    const std::vector<float> prefill = prefilled(tokens, 64);
    expect_nmse(decoded, std::vector<double>(prefill.begin(), prefill.end()), kLimit, "decoded against prefilled");
    expect_nmse(decoded, reference::forward(model_.reference(), tokens), kLimit, "decoded");
}

INSTANTIATE_TEST_SUITE_P(Flavours, SessionTest, ::testing::Values(Flavour::kLlama, Flavour::kQwen2, Flavour::kGemma3),
                         [](const auto& test) { return flavour_name(test.param); });

}  // namespace
}  // namespace winnow::test
