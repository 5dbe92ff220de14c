// SPDX-License-Identifier: Apache-2.0
// The comparisons that other tests lean on must themselves fail when they should.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/close.h"
#include "tests/support/random.h"

namespace winnow::test {
namespace {

TEST(ExpectClose, PassesWithinTheAllowance) {
    const std::vector<float> got{1.0f, 2.5f, -3.0f};
    expect_close(got, std::vector<double>{1.0, 2.0, -3.25}, std::vector<double>{0.0, 0.5, 0.25}, "x");
}

TEST(ExpectClose, NamesTheWorstElement) {
    static const std::vector<float> got{1.0f, 2.5f, -3.0f};
    static const std::vector<double> ref{1.0, 2.0, -2.0};
    static const std::vector<double> allowance{0.1, 0.25, 0.1};
    EXPECT_NONFATAL_FAILURE(expect_close(got, ref, allowance, "x"),
                            "x: 2 of 3 elements outside their allowance; worst [2]: got -3, "
                            "reference -2, difference 1, allowance 0.1 (1000% used)");
}

TEST(ExpectClose, FailsOnNonFiniteValuesAndSizes) {
    static const std::vector<float> got{std::nanf("")};
    static const std::vector<double> ref{1.0};
    static const std::vector<double> wide{std::numeric_limits<double>::infinity()};
    EXPECT_NONFATAL_FAILURE(expect_close(got, ref, wide, "nan"), "1 of 1");
    EXPECT_NONFATAL_FAILURE(expect_close(got, {}, {}, "size"), "1 values, 0 references");
}

TEST(Nmse, IsRelative) {
    const std::vector<float> got{1.1f, 2.0f};
    EXPECT_NEAR(nmse(got, std::vector<double>{1.0, 2.0}), 0.01 / 5, 1e-6);
    expect_nmse(got, std::vector<double>{1.0, 2.0}, 0.01, "x");
    static const std::vector<float> bad{std::nanf("")};
    static const std::vector<double> ref{1.0};
    EXPECT_NONFATAL_FAILURE(expect_nmse(bad, ref, 1.0, "x"), "NMSE nan");
}

TEST(ReplicableRng, RepeatsAndSpreads) {
    ReplicableRng a, b, c(1);
    const auto values = a.normals(20000);
    EXPECT_EQ(values, b.normals(20000));
    EXPECT_NE(values[0], c.normal());
    double sum = 0, squares = 0;
    for (float x : values) {
        sum += static_cast<double>(x);
        squares += static_cast<double>(x) * static_cast<double>(x);
    }
    EXPECT_NEAR(sum / 20000, 0, 0.05);
    EXPECT_NEAR(squares / 20000, 1, 0.05);
    for (int i = 0; i < 1000; ++i) {
        const auto k = a.integer(-2, 2);
        EXPECT_TRUE(k >= -2 && k <= 2);
        const float u = a.uniform(3, 4);
        EXPECT_TRUE(u >= 3 && u <= 4);
    }
}

}  // namespace
}  // namespace winnow::test
