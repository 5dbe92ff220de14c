// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/audit_controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace winnow::test {
namespace {

// A head whose estimate of its own attention is off: asking for an estimated miss of m really misses factor * m.
struct BiasedHead {
    float factor;
    float captured(float asked_mass, float noise) const {
        return asked_mass >= 1 ? 1.0f : std::clamp(1 - (1 - asked_mass) * factor * (1 + noise), 0.0f, 1.0f);
    }
};

TEST(AuditController, HoldsTheTargetForBiasedEstimates) {
    std::mt19937 random(3);
    std::uniform_real_distribution<float> noise(-0.2f, 0.2f);
    for (const float factor : {0.3f, 1.0f, 3.0f, 8.0f}) {
        SelectLevel level;
        level.mass = 0.9f;
        AuditController controller(1, 1, level);
        HeadPolicy policy{};
        policy.mass = level.mass;
        const BiasedHead head{factor};
        for (int i = 0; i < 60; ++i)  // audits of one text
            controller.observe(0, 0, head.captured(policy.mass, noise(random)), 0.2f, 8192, policy);
        double sum = 0;
        for (int i = 0; i < 200; ++i) {  // and of another, still under control
            const float mass = head.captured(policy.mass, noise(random));
            sum += mass / 200;
            controller.observe(0, 0, mass, 0.2f, 8192, policy);
        }
        EXPECT_GE(sum, 0.9) << factor;
        EXPECT_LE(sum, 0.985) << "keeps far more than asked for at bias " << factor;
        EXPECT_FALSE(controller.is_dense(0, 0));
    }
}

TEST(AuditController, FlatHeadsFallBackToEverything) {
    SelectLevel level;
    level.mass = 0.95f;
    AuditController controller(2, 2, level);
    HeadPolicy policy{};
    policy.mass = 0.95f;
    controller.observe(1, 1, 0.8f, 0.9f, 4096, policy);
    EXPECT_TRUE(controller.is_dense(1, 1));
    EXPECT_FALSE(controller.is_dense(1, 0));
    EXPECT_EQ(policy.mass, 1.0f);
}

TEST(AuditController, TopKBudgetsGrowAndShrinkWithinBounds) {
    SelectLevel level;
    level.rule = BudgetRule::kTopK;
    level.budget = 256;
    level.mass = 0.95f;
    AuditController controller(1, 1, level);
    HeadPolicy policy{};
    policy.budget_max = 188;
    for (int i = 0; i < 40; ++i) controller.observe(0, 0, 0.5f, 0.1f, 4096, policy);
    EXPECT_EQ(policy.budget_max, 4096u);
    for (int i = 0; i < 200; ++i) controller.observe(0, 0, 1.0f, 0.1f, 4096, policy);
    EXPECT_EQ(policy.budget_max, 32u);
}

}  // namespace
}  // namespace winnow::test
