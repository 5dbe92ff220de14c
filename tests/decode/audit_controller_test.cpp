// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/audit_controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

namespace winnow::test {
namespace {

// A head whose estimate of its own attention is off: asking for an estimated miss of m really misses factor * m.
struct BiasedHead {
    float factor;
    float captured(float asked_mass, float noise) const {
        return asked_mass >= 1 ? 1.0f : std::clamp(1 - (1 - asked_mass) * factor * (1 + noise), 0.0f, 1.0f);
    }
};

SparsePolicy policy_of(std::vector<SelectLevel> levels,
                       std::vector<LayerSchedule> layers = {{LayerKind::kSelect, 0, {}}}) {
    SparsePolicy p;
    p.levels = std::move(levels);
    p.layers = std::move(layers);
    return p;
}
SelectLevel top_p(float mass) { return {.rule = BudgetRule::kTopP, .mass = mass}; }
SelectLevel top_k(std::uint32_t budget) { return {.rule = BudgetRule::kTopK, .mass = 0.95f, .budget = budget}; }

TEST(AuditController, HoldsTheTargetForBiasedEstimates) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> noise(-0.2f, 0.2f);
    for (const float factor : {0.3f, 1.0f, 3.0f, 8.0f}) {
        AuditController controller(policy_of({top_p(0.9f)}), 1);
        HeadPolicy policy{};
        policy.mass = 0.9f;
        HeadPolicy* const levels[] = {&policy};
        const BiasedHead head{factor};
        for (int i = 0; i < 60; ++i)  // audits of one text
            controller.observe(0, 0, head.captured(policy.mass, noise(random)), 0.2f, 8192, levels);
        double sum = 0;
        for (int i = 0; i < 200; ++i) {  // and of another, still under control
            const float mass = head.captured(policy.mass, noise(random));
            sum += mass / 200;
            controller.observe(0, 0, mass, 0.2f, 8192, levels);
        }
        EXPECT_GE(sum, 0.9) << factor;
        EXPECT_LE(sum, 0.985) << "keeps far more than asked for at bias " << factor;
        EXPECT_FALSE(controller.is_dense(0, 0));
    }
}

TEST(AuditController, FlatHeadsFallBackToEverything) {
    SelectLevel coarse = top_k(256);
    coarse.budget_share = 0.25f;
    AuditController controller(policy_of({coarse, top_p(0.95f)}, {{}, {LayerKind::kSelect, 0, {}}}), 2);
    HeadPolicy blocks{}, tokens{};
    blocks.budget_max = 256;
    blocks.budget_share = 0.25f;
    tokens.mass = 0.95f;
    tokens.threshold = 0.1f;
    HeadPolicy* const levels[] = {&blocks, &tokens};
    controller.observe(1, 1, 0.8f, 0.9f, 4096, levels);
    EXPECT_TRUE(controller.is_dense(1, 1));
    EXPECT_FALSE(controller.is_dense(1, 0));
    EXPECT_EQ(tokens.mass, 1.0f);
    EXPECT_EQ(tokens.threshold, 0.0f);
    for (const HeadPolicy& level : {blocks, tokens}) EXPECT_GE(level.budget_max, 1u << 30);
}

TEST(AuditController, TopKBudgetsGrowAndShrinkWithinBounds) {
    AuditController controller(policy_of({top_k(256)}), 1);
    HeadPolicy policy{};
    policy.budget_max = 188;
    HeadPolicy* const levels[] = {&policy};
    for (int i = 0; i < 40; ++i) controller.observe(0, 0, 0.5f, 0.1f, 4096, levels);
    EXPECT_EQ(policy.budget_max, 4096u);
    for (int i = 0; i < 200; ++i) controller.observe(0, 0, 1.0f, 0.1f, 4096, levels);
    EXPECT_EQ(policy.budget_max, 32u);
}

// A tenth of the cache: widening it must never fall back to the count, which is far smaller.
TEST(AuditController, BudgetsThatAreSharesStayShares) {
    AuditController controller(policy_of({top_k(128)}), 1);
    HeadPolicy policy{};
    policy.budget_max = 128;
    policy.budget_share = 0.1f;
    HeadPolicy* const levels[] = {&policy};
    controller.observe(0, 0, 0.5f, 0.1f, 8192, levels);
    EXPECT_GT(std::max(static_cast<float>(policy.budget_max), policy.budget_share * 8192), 1000.0f);
}

TEST(AuditController, CoarseLevelsWidenWhenTheLastOneKeepsAllThatTheyOffer) {
    SelectLevel coarse = top_k(256);
    AuditController controller(policy_of({coarse, top_p(0.95f)}), 1);
    HeadPolicy blocks{}, tokens{};
    blocks.budget_max = 256;
    tokens.mass = 0.95f;
    HeadPolicy* const levels[] = {&blocks, &tokens};
    controller.observe(0, 0, 0.9f, 0.05f, 8192, levels);
    EXPECT_EQ(blocks.budget_max, 256u);  // the last level has room left
    for (int i = 0; i < 40; ++i) controller.observe(0, 0, 0.8f, 0.05f, 8192, levels);
    EXPECT_EQ(tokens.mass, 1.0f);
    EXPECT_EQ(blocks.budget_max, 8192u);
}

// Layer 0 selects, 1 and 2 use its lists: kv head 0 of layer 1 that of head 1, and layer 2 the same heads.
TEST(AuditController, HeadsThatReuseASelectionSteerIt) {
    for (const LayerKind lender : {LayerKind::kAnchor, LayerKind::kSelect}) {
        const SparsePolicy p =
            policy_of({top_p(0.9f)}, {{lender, 0, {}}, {LayerKind::kReuse, 0, {1, 0}}, {LayerKind::kReuse, 0, {}}});
        AuditController controller(p, 2);
        EXPECT_EQ(controller.steers(0), lender == LayerKind::kSelect);
        EXPECT_TRUE(controller.steers(1));
        EXPECT_EQ(controller.source(1, 0).layer, 0u);
        EXPECT_EQ(controller.source(1, 0).kv_head, 1u);
        EXPECT_EQ(controller.source(2, 0).kv_head, 0u);
        HeadPolicy policy{};
        policy.mass = 0.9f;
        HeadPolicy* const levels[] = {&policy};
        controller.observe(1, 0, 0.5f, 0.1f, 4096, levels);
        EXPECT_GT(policy.mass, 0.9f);
        // One user has plenty, another just enough: nothing changes, for all that the first one reports.
        for (int i = 0; i < 20; ++i) controller.observe(2, 1, 0.92f, 0.1f, 4096, levels);
        for (int i = 0; i < 20; ++i) controller.observe(1, 0, 0.92f, 0.1f, 4096, levels);
        const float before = policy.mass;
        for (int i = 0; i < 20; ++i) controller.observe(1, 0, 0.999f, 0.1f, 4096, levels);
        EXPECT_EQ(policy.mass, before);
        controller.observe(1, 0, 0.5f, 0.9f, 4096, levels);  // flat
        EXPECT_TRUE(controller.is_dense(2, 1));
        EXPECT_FALSE(controller.is_dense(2, 0));
    }
}

TEST(AuditController, ManyUsersNarrowASelectionNoFasterThanOne) {
    std::vector<LayerSchedule> layers{{LayerKind::kAnchor, 0, {}}};
    for (int i = 0; i < 8; ++i) layers.push_back({LayerKind::kReuse, 0, {}});
    AuditController controller(policy_of({top_p(0.9f)}, layers), 1);
    HeadPolicy policy{};
    policy.mass = 0.9f;
    HeadPolicy* const levels[] = {&policy};
    for (int step = 0; step < 3; ++step)
        for (std::uint32_t layer = 1; layer < 9; ++layer) controller.observe(layer, 0, 1.0f, 0.1f, 4096, levels);
    EXPECT_GE(policy.mass, 1 - 0.1f * 1.1f * 1.1f * 1.1f * 1.1f * 1.1f);
    EXPECT_LT(policy.mass, 0.9f);
}

}  // namespace
}  // namespace winnow::test
