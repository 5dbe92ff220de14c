// SPDX-License-Identifier: Apache-2.0
// Sessions under sparse policies: what they take, what they keep after a cut, and the audit controller at work.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/model.h"
#include "models/session_plan.h"
#include "models/sidecar.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_file.h"
#include "tests/support/tiny_model.h"

namespace winnow::test {
namespace {

class SessionUnderPolicyTest : public GpuTest {
protected:
    static std::unique_ptr<Session> open(const TinyModel& model, const SparseOptions& sparse,
                                         std::uint32_t n_ctx = 512) {
        SessionOptions options;
        options.n_ctx = n_ctx;
        options.sparse = sparse;
        return make_session(vk::Device::open({}), model.source(), options);
    }
    static SparseOptions preset(const char* name, const SparseOverrides& overrides = {},
                                std::uint32_t audit_every = 0) {
        SparseOptions sparse;
        sparse.preset = name;
        sparse.overrides = overrides;
        if (overrides.min_ctx < 0) sparse.overrides.min_ctx = 0;
        sparse.audit_every = audit_every;
        return sparse;
    }
    static std::vector<float> decode(Session& session, std::span<const std::int32_t> tokens) {
        std::vector<float> all;
        for (const std::int32_t token : tokens) {
            const std::span<const float> logits = session.decode_logits(token);
            all.insert(all.end(), logits.begin(), logits.end());
        }
        return all;
    }
};

// What the plan says and what pools, tables, summaries, index keys and lists really are: the same bytes.
TEST_F(SessionUnderPolicyTest, LocalHeadsTakeWhatThePlanSays) {
    constexpr std::uint32_t kCtx = 4096;
    const TinyModel model(Flavour::kLlama);
    const ModelShape& shape = model.shape();
    const auto calibration = std::make_shared<Calibration>(assume_calibration(shape, 0.5f));
    SessionOptions options;
    options.n_ctx = kCtx;
    const std::uint64_t dense_bytes = plan_session(device(), model.source(), options).memory.kv_bytes;
    for (const auto& [name, audit] :
         {std::pair{"duo", 0u}, {"rtpurbo", 0u}, {"streaming", 0u}, {"hisa", 0u}, {"hisa", 4u}, {"quest", 4u}}) {
        SCOPED_TRACE(fmt::format("{} audit {}", name, audit));
        options.sparse = preset(name, {.window = 128}, audit);
        options.sparse.calibration = calibration;
        const bool has_rings = audit == 0 && std::string(name) != "hisa";
        const ResolvedOptions plan = plan_session(device(), model.source(), options);
        const SparsePolicy policy = resolve_policy(shape, options.sparse, KvType::kF16);
        const KvCache cache(device(), kv_config(shape, KvType::kF16, kCtx, plan.n_chunk, policy));
        std::uint64_t pools = cache.tables().bytes();
        std::uint32_t n_rings = 0;
        for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
            pools += cache.keys(layer).bytes() + cache.values(layer).bytes();
            for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h)
                n_rings += cache.layout().head(layer, h).ring_blocks != 0 ? 1 : 0;
        }
        EXPECT_EQ(plan.memory.kv_bytes, pools);
        EXPECT_EQ(n_rings != 0, has_rings);
        EXPECT_EQ(pools < dense_bytes, has_rings);
        StepBuffers b(device(), shape, plan.n_splits);
        const AttentionPipeline pipeline(
            device(), attention_shape(shape), cache,
            {b.state, b.query, b.partials, b.counters, b.attended, b.act_attended}, plan.n_splits, policy,
            policy.index_maps ? std::span<const float>(*policy.index_maps) : std::span<const float>());
        EXPECT_EQ(plan.memory.index_bytes, pipeline.bytes());
        if (std::string(name) != "rtpurbo") continue;
        // A whole session: each of its allocations is rounded up to what the device aligns to.
        auto owned = vk::Device::open({});
        const vk::Device& own = *owned;
        const std::uint64_t before = own.allocated_bytes();
        const auto session = make_session(std::move(owned), model.source(), options);
        EXPECT_EQ(session->memory().total_bytes(), plan.memory.total_bytes());
        EXPECT_GE(own.allocated_bytes() - before, plan.memory.total_bytes());
        EXPECT_LT(own.allocated_bytes() - before, plan.memory.total_bytes() + (1u << 20));
    }
}

// A cut and other tokens after it: summaries, index keys and lists of what was there must not show.
TEST_F(SessionUnderPolicyTest, TruncatedSessionsEqualFreshOnes) {
    const TinyModel model(Flavour::kLlama);
    const auto used = open(model, {}), fresh = open(model, {});
    const std::vector<std::int32_t> first = random_tokens(400, 1), second = random_tokens(300, 2);
    for (const char* name : {"quest", "twilight", "recycled", "kascade", "hisa"}) {
        SCOPED_TRACE(name);
        const bool by_mass = std::string(name) == "twilight";
        const SparseOptions sparse = preset(name, {.budget = by_mass ? 0u : 64u, .sink = 4, .window = 32});
        used->truncate(0);
        used->use_sparse(sparse);
        used->prefill(first);
        decode(*used, std::span(first).first(10));
        ASSERT_EQ(used->truncate(77), 77u);  // inside blocks of every size
        used->prefill(std::span(second).first(250));
        fresh->truncate(0);
        fresh->use_sparse(sparse);
        fresh->prefill(std::span(first).first(77));
        fresh->prefill(std::span(second).first(250));
        EXPECT_EQ(decode(*used, std::span(second).last(8)), decode(*fresh, std::span(second).last(8)));
        EXPECT_LT(used->sparse_report().attended_share, 1) << "the test says little";
    }
}

TEST_F(SessionUnderPolicyTest, RefusedPoliciesChangeAndTakeNothing) {
    const TinyModel model(Flavour::kLlama);
    auto owned = vk::Device::open({});
    const vk::Device& device = *owned;
    SessionOptions options;
    options.n_ctx = 256;
    options.sparse = preset("exact");
    const auto session = make_session(std::move(owned), model.source(), options);
    session->prefill(random_tokens(150));
    const std::vector<std::int32_t> next = random_tokens(3, 9);
    const std::vector<float> before = decode(*session, next);
    session->truncate(150);
    const std::uint64_t n = device.n_allocations(), bytes = device.allocated_bytes();
    for (const auto& [name, overrides] : {std::pair<const char*, SparseOverrides>{"nonsense", {}},
                                          {"quest", {.budget = 60}},
                                          {"exact", {.mass = 1.5f}},
                                          {"streaming", {.window = 0}},
                                          {"duo", {.window = 0}}}) {
        try {
            session->use_sparse(preset(name, overrides));
            ADD_FAILURE() << name << " was accepted";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
        }
        EXPECT_EQ(device.n_allocations(), n) << name;
        EXPECT_EQ(device.allocated_bytes(), bytes) << name;
    }
    EXPECT_EQ(session->sparse_policy().name, "exact");
    EXPECT_EQ(decode(*session, next), before);
}

// An audit of a ring would compare the ring with itself and call it perfect.
TEST_F(SessionUnderPolicyTest, RingsAreNotAudited) {
    const TinyModel model(Flavour::kLlama);
    const auto session = open(model, preset("streaming", {.window = 64}, 1), 1024);
    session->prefill(random_tokens(600));
    decode(*session, random_tokens(4, 3));
    const SparseReport ring = session->sparse_report();
    EXPECT_EQ(ring.n_steps, 4u);
    EXPECT_EQ(ring.n_audits, 0u);
    EXPECT_EQ(ring.n_unaudited, std::uint64_t{4} * model.shape().n_layers * model.shape().n_heads);
    for (const float mass : ring.layer_head_mass) EXPECT_TRUE(std::isnan(mass));

    const auto whole = open(model, {}, 1024);
    whole->prefill(random_tokens(600));
    whole->use_sparse(preset("streaming", {.window = 64}, 1));
    decode(*whole, random_tokens(4, 3));
    EXPECT_EQ(whole->sparse_report().n_unaudited, 0u);
    EXPECT_GT(whole->sparse_report().n_audits, 0u);
    EXPECT_LT(whole->sparse_report().mass_min, 0.9);
}

// The attention of a random model is flat: with a tiny budget heads miss the target by far, and only widening, up to
// everything, reaches it, on a text that the controller has not seen. Lists must have room for that. quest has units of
// 16 tokens and a top-k, twilight a coarse level above, and of tidal all that is sparse reuses another layer's lists.
TEST_F(SessionUnderPolicyTest, AuditsWidenHeadsUntilTheyHoldTheTarget) {
    TinyOptions tiny;
    tiny.n_layers = 4;
    tiny.n_ctx = 640;
    SessionOptions options;
    options.n_ctx = 640;
    const auto session = make_session(vk::Device::open({}), open_tiny(tiny), options);
    const std::vector<std::int32_t> prompt = random_tokens(500, 4), a = random_tokens(40, 5), b = random_tokens(8, 6);
    session->prefill(prompt);
    for (const char* name : {"quest", "twilight", "tidal"}) {
        SCOPED_TRACE(name);
        const bool by_budget = std::string(name) != "twilight";
        session->truncate(500);
        session->use_sparse(preset(name, {.budget = by_budget ? 96u : 0u, .sink = 4, .window = 32}, 2));
        decode(*session, std::span(a).first(2));  // as it begins
        const SparseReport first = session->sparse_report();
        decode(*session, std::span(a).subspan(2));
        const SparseReport one = session->sparse_report();
        session->truncate(500);
        decode(*session, b);
        const SparseReport both = session->sparse_report();
        const auto n = static_cast<double>(both.n_audits), n_one = static_cast<double>(one.n_audits);
        ASSERT_GT(n, n_one);
        const double other = (both.mass_mean * n - one.mass_mean * n_one) / (n - n_one);
        EXPECT_GE(other, 0.95 - 0.005);
        EXPECT_LT(first.mass_mean, 0.93) << "the test says little";
        EXPECT_GT(other, first.mass_mean);
    }
}

}  // namespace
}  // namespace winnow::test
