// SPDX-License-Identifier: Apache-2.0
#include "tests/support/close.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>

namespace winnow::test {
namespace {

/// Share of the allowance that is used; infinite where no allowance can help.
double used_share(double got, double ref, double allowance) {
    if (got == ref) return 0;
    if (std::isnan(got) && std::isnan(ref)) return 0;
    if (!std::isfinite(got) || !std::isfinite(ref) || !(allowance > 0)) {
        return std::numeric_limits<double>::infinity();
    }
    return std::abs(got - ref) / allowance;
}

}  // namespace

void expect_close(std::span<const float> got, std::span<const double> ref, std::span<const double> allowance,
                  const char* what) {
    if (got.size() != ref.size() || allowance.size() != ref.size()) {
        ADD_FAILURE() << what << ": " << got.size() << " values, " << ref.size() << " references, " << allowance.size()
                      << " allowances";
        return;
    }
    std::size_t worst = 0;
    std::size_t n_outside = 0;
    double worst_share = -1;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double share = used_share(static_cast<double>(got[i]), ref[i], allowance[i]);
        if (share > 1) ++n_outside;
        if (share > worst_share) {
            worst_share = share;
            worst = i;
        }
    }
    if (n_outside == 0) return;
    ADD_FAILURE() << fmt::format(
        "{}: {} of {} elements outside their allowance; worst [{}]: got {:.9g}, reference {:.9g}, "
        "difference {:.3g}, allowance {:.3g} ({:.0f}% used); --gtest_random_seed={}",
        what, n_outside, got.size(), worst, got[worst], ref[worst],
        std::abs(static_cast<double>(got[worst]) - ref[worst]), allowance[worst], 100 * worst_share,
        GTEST_FLAG_GET(random_seed));
}

double nmse(std::span<const float> got, std::span<const double> ref) {
    double error = 0;
    double power = 0;
    for (std::size_t i = 0; i < ref.size(); ++i) {
        const double difference = static_cast<double>(got[i]) - ref[i];
        error += difference * difference;
        power += ref[i] * ref[i];
    }
    if (error == 0) return 0;
    return power > 0 ? error / power : std::numeric_limits<double>::infinity();
}

void expect_nmse(std::span<const float> got, std::span<const double> ref, double limit, const char* what) {
    if (got.size() != ref.size()) {
        ADD_FAILURE() << what << ": " << got.size() << " values, " << ref.size() << " references";
        return;
    }
    const double error = nmse(got, ref);
    if (error <= limit) return;  // false for NaN
    ADD_FAILURE() << fmt::format("{}: NMSE {:.3g}, limit {:.3g}; --gtest_random_seed={}", what, error, limit,
                                 GTEST_FLAG_GET(random_seed));
}

}  // namespace winnow::test
