// SPDX-License-Identifier: Apache-2.0
// Below min_ctx a preset decodes the bits of `--sparse off`, where its rings hold all tokens so far; from there on it
// is sparse.
#include <gtest/gtest.h>

#include "models/sidecar.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_file.h"
#include "tests/support/tiny_model.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kMinCtx = 200, kPrefilled = kMinCtx - 2;

class MinCtxTest : public GpuTest {
protected:
    using Logits = std::vector<float>;
    // Logits after min_ctx - 1 and after min_ctx tokens, and how many of the two steps were sparse.
    struct Steps {
        Logits below, at;
        std::uint64_t n_sparse_below = 0, n_sparse = 0;
    };
    static Steps steps(Session& session, const SparseOptions& sparse, const std::vector<std::int32_t>& tokens) {
        EXPECT_EQ(session.truncate(kPrefilled), kPrefilled);
        session.use_sparse(sparse);
        Steps s;
        const auto copy = [](std::span<const float> logits) { return Logits(logits.begin(), logits.end()); };
        s.below = copy(session.decode_logits(tokens[kPrefilled]));
        s.n_sparse_below = session.sparse_report().n_steps;
        s.at = copy(session.decode_logits(tokens[kPrefilled + 1]));
        s.n_sparse = session.sparse_report().n_steps;
        return s;
    }
};

// A session that is opened with the policy has rings where it asks for windows. They hold at any length.
TEST_F(MinCtxTest, WindowsHoldBelowToo) {
    const std::vector<std::int32_t> tokens = random_tokens(kMinCtx);
    const auto below = [&](const char* preset, std::int32_t window) {
        TinyOptions tiny;
        tiny.n_ctx = 512;
        SessionOptions options;
        options.n_ctx = 256;
        options.sparse.preset = preset;
        options.sparse.overrides.min_ctx = kMinCtx;
        options.sparse.overrides.window = window;
        const auto session = make_session(vk::Device::open({}), open_tiny(tiny), options);
        session->prefill(std::span(tokens).first(kPrefilled));
        const auto logits = session->decode_logits(tokens[kPrefilled]);
        EXPECT_EQ(session->sparse_report().n_steps, 0u);
        return Logits(logits.begin(), logits.end());
    };
    const Logits dense = below("off", -1);
    EXPECT_EQ(below("exact", 16), dense);
    EXPECT_EQ(below("streaming", kMinCtx), dense);
    EXPECT_NE(below("streaming", 64), dense);
}

TEST_F(MinCtxTest, BitsOfDenseBelowSparseFromThere) {
    TinyOptions tiny;  // enough layers that presets with dense first ones and anchors have some left to be sparse in
    tiny.n_layers = 6;
    tiny.n_ctx = 512;
    ModelSource model = open_tiny(tiny);
    const auto calibration = std::make_shared<Calibration>(assume_calibration(model.shape, 0.5f));
    SessionOptions options;
    options.n_ctx = 256;
    const auto session = make_session(vk::Device::open({}), std::move(model), options);
    const std::vector<std::int32_t> tokens = random_tokens(kMinCtx);
    session->prefill(std::span(tokens).first(kPrefilled));
    const Steps dense = steps(*session, {}, tokens);
    EXPECT_EQ(dense.n_sparse, 0u);
    for (const PresetInfo& info : sparse_presets()) {
        SCOPED_TRACE(info.name);
        if (info.name == "dense") continue;
        SparseOptions sparse;
        sparse.preset = info.name;
        sparse.calibration = calibration;
        sparse.overrides.min_ctx = kMinCtx;
        // Small enough to leave something out of 200 tokens. Windows of local heads hold below min_ctx too: theirs stay
        // large.
        const bool narrows_heads = info.name == "duo" || info.name == "razor" || info.name == "rtpurbo";
        if (info.name != "blasst" && !narrows_heads) sparse.overrides.window = 16, sparse.overrides.sink = 4;
        const SparsePolicy preset = make_preset(info.name, std::vector<bool>(6), {}, calibration.get());
        if (!preset.levels.empty() && preset.levels.back().rule == BudgetRule::kTopK) sparse.overrides.budget = 32;
        const Steps got = steps(*session, sparse, tokens);
        EXPECT_EQ(got.below, dense.below);
        EXPECT_EQ(got.n_sparse_below, 0u);
        EXPECT_EQ(got.n_sparse, 1u);
        if (!narrows_heads && info.name != "blasst") {
            EXPECT_NE(got.at, dense.at) << "the test says little";
        }
    }
    const Steps off = steps(*session, {}, tokens);
    EXPECT_EQ(off.below, dense.below);
    EXPECT_EQ(off.at, dense.at);
}

}  // namespace
}  // namespace winnow::test
