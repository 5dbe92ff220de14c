// SPDX-License-Identifier: Apache-2.0
// Codes of index keys as calibration fits them.
#include "models/calibration/code_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>

#include "models/calibration/moments.h"
#include "runtime/kv/index_codes.h"
#include "tests/support/code_rows.h"
#include "tests/support/random.h"

namespace winnow::test {
namespace {

// Normal keys of which each dimension has a deviation of its own.
Rows normal_keys(std::uint32_t n, const std::vector<float>& deviations, std::uint32_t seed) {
    ReplicableRng rng(seed);
    Rows keys(n, static_cast<Eigen::Index>(deviations.size()));
    for (Eigen::Index t = 0; t < keys.rows(); ++t)
        for (Eigen::Index r = 0; r < keys.cols(); ++r)
            keys(t, r) = 3 + rng.normal(0, deviations[static_cast<std::size_t>(r)]);
    return keys;
}

double mean_square(const Rows& a, const Rows& b, Eigen::Index r) {
    return (a.col(r) - b.col(r)).squaredNorm() / static_cast<double>(a.rows());
}

TEST(CodeFitTest, ErrorsAreNearlyTheLeast) {
    const std::vector<float> ones(16, 1.0f);
    const CodeFit fit = fit_codes(normal_keys(20000, ones, 1), Eigen::VectorXd::Ones(16));
    const Rows keys = normal_keys(20000, ones, 2), coded = coded_keys(keys, fit.bits.data(), fit.curves.data());
    // Of the normal distribution, by bits (Max 1960).
    constexpr double kError[] = {1, 0.3634, 0.1175, 0.03454, 0.009497};
    std::uint32_t sum = 0;
    for (std::uint32_t r = 0; r < 16; ++r) {
        ASSERT_GE(fit.bits[r], 2);  // the dimensions are alike: 48 bits fall to them evenly, as words allow
        ASSERT_LE(fit.bits[r], 4);
        sum += fit.bits[r];
        EXPECT_NEAR(mean_square(keys, coded, r) / kError[fit.bits[r]], 1, 0.08) << r;  // values are on a cubic
    }
    EXPECT_EQ(sum, 48u);
}

TEST(CodeFitTest, BitsGoWhereScoresVary) {
    std::vector<float> deviations;
    for (std::uint32_t r = 0; r < 16; ++r) deviations.push_back(std::exp2(-0.25f * static_cast<float>(r)));
    Eigen::VectorXd weights(16);
    for (Eigen::Index r = 0; r < 16; ++r) weights[r] = std::exp2(-0.5 * static_cast<double>(r));
    const Rows samples = normal_keys(4000, deviations, 3);
    const CodeFit fit = fit_codes(samples, weights);
    EXPECT_GE(fit.bits[0], 5);
    EXPECT_LE(fit.bits[15], 1);
    EXPECT_TRUE(code_fault({fit.bits, fit.curves}, 1, 16).empty());
    // Error of the scores against that of three bits everywhere, which is what water-filling saves.
    const Rows coded = coded_keys(samples, fit.bits.data(), fit.curves.data());
    double error = 0, even = 0;
    for (Eigen::Index r = 0; r < 16; ++r) {
        error += weights[r] * mean_square(samples, coded, r);
        even += weights[r] * 0.03454 * std::pow(deviations[static_cast<std::size_t>(r)], 2);
    }
    EXPECT_LT(error, 0.5 * even);
}

TEST(CodeFitTest, SamplesThatAreAllTheSame) {
    const Rows samples = Rows::Constant(50, 8, 1.5f);
    const CodeFit fit = fit_codes(samples, Eigen::VectorXd::Ones(8));
    EXPECT_TRUE(code_fault({fit.bits, fit.curves}, 1, 8).empty());
    EXPECT_EQ(coded_keys(samples, fit.bits.data(), fit.curves.data()), samples);
}

TEST(CodeFitTest, NearestIsWhatAScanFinds) {
    const IndexCodes codes = random_codes(1, 24, 1);
    const Rows keys = normal_keys(300, std::vector<float>(24, 2.0f), 4),
               coded = coded_keys(keys, codes.bits.data(), codes.curves.data());
    for (Eigen::Index t = 0; t < keys.rows(); ++t)
        for (std::uint32_t r = 0; r < 24; ++r)
            ASSERT_EQ(coded(t, r), value_of_code(codes, 0, 24, r, nearest_code(codes, 0, 24, r, keys(t, r))));
}

// A rounding after each operation; `volatile`, so that no compiler makes one of two.
float rounded_each(const float* curve, std::uint32_t code) {
    volatile float x = curve[kCodeTerms - 1];
    for (std::size_t t = kCodeTerms - 1; t-- > 0;) {
        x = static_cast<float>(code) * x;
        x = curve[t] + x;
    }
    return x;
}
float rounded_once(const float* curve, std::uint32_t code) {
    float x = curve[kCodeTerms - 1];
    for (std::size_t t = kCodeTerms - 1; t-- > 0;) x = std::fma(static_cast<float>(code), x, curve[t]);
    return x;
}

// On every processor: those that have a fused multiply-add would give other codes and find other curves to descend.
TEST(CodeFitTest, ValuesAreRoundedAfterEachOperation) {
    constexpr std::uint32_t kDim = 64;
    const IndexCodes codes = random_codes(1, kDim, 1);
    const Rows keys = normal_keys(200, std::vector<float>(kDim, 1.5f), 9),
               coded = coded_keys(keys, codes.bits.data(), codes.curves.data());
    std::uint32_t n_otherwise = 0;
    for (std::uint32_t r = 0; r < kDim; ++r) {
        const float* curve = codes.curves.data() + r * kCodeTerms;
        std::set<float> values;
        for (std::uint32_t k = 0; k < 1u << codes.bits[r]; ++k) {
            values.insert(rounded_each(curve, k));
            n_otherwise += rounded_once(curve, k) != rounded_each(curve, k) ? 1 : 0;
            ASSERT_EQ(value_of_code(codes, 0, kDim, r, k), rounded_each(curve, k)) << "code " << k << " of " << r;
        }
        for (Eigen::Index t = 0; t < keys.rows(); ++t) ASSERT_EQ(values.count(coded(t, r)), 1u) << "dimension " << r;
    }
    EXPECT_GT(n_otherwise, 50u) << "the test says little";

    // Curves that are level somewhere: rounding decides whether they descend there.
    constexpr std::uint32_t kBits = 5;
    const auto ascends = [](const float* curve, auto&& value) {
        for (std::uint32_t k = 1; k < 1u << kBits; ++k)
            if (value(curve, k) < value(curve, k - 1)) return false;
        return true;
    };
    ReplicableRng rng(4);
    IndexCodes one;
    one.bits.assign(8, 0);
    one.bits[0] = kBits;
    one.curves.assign(8 * kCodeTerms, 0.0f);
    std::uint32_t n_up = 0, n_down = 0;  // of those where it matters
    for (int i = 0; i < 20000; ++i) {
        // cubic ((k - at)^3 + line (k - at)), whose values at codes 28 and 29 differ by cubic (line + 1/4)
        const float at = 28.5f, line = -0.25f + rng.uniform(-0.01f, 0.01f), cubic = rng.uniform(0.5f, 2);
        const float terms[] = {-cubic * (at * at * at + line * at), cubic * (3 * at * at + line), -3 * cubic * at,
                               cubic};
        std::copy_n(terms, kCodeTerms, one.curves.begin());
        const bool up = ascends(terms, rounded_each);
        if (up == ascends(terms, rounded_once)) continue;
        (up ? n_up : n_down) += 1;
        ASSERT_EQ(code_fault(one, 1, 8).empty(), up) << "curve " << i;
    }
    EXPECT_GT(n_up, 10u);
    EXPECT_GT(n_down, 10u);
}

// Words of 16 bits, each of which has dimensions from the first and from the last.
TEST(CodeFitTest, DimensionsAreSpreadOverWords) {
    for (const std::uint32_t dim : {8u, 16u, 24u, 32u, 40u, 48u, 56u, 64u}) {
        const std::uint32_t n = index_code_words(dim);
        EXPECT_LE(16 * n, std::max(3 * dim, 16u));
        std::vector<std::uint32_t> of_word(n);
        for (std::uint32_t r = 0; r < dim; ++r) ++of_word[index_code_word(dim, r)];
        const auto [least, most] = std::minmax_element(of_word.begin(), of_word.end());
        EXPECT_LE(*most - *least, 1u) << dim;
        EXPECT_EQ(index_code_word(dim, 0), 0u);
        if (n > 1) {
            EXPECT_EQ(index_code_word(dim, n), n - 1);
        }
    }
}

}  // namespace
}  // namespace winnow::test
