// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>

namespace winnow::test {

/// Expects |got[i] - ref[i]| <= allowance[i] for all i; the allowance comes from the stage's error
/// model: roundings times the sum of the terms' magnitudes. A failure names the element that uses most of its
/// allowance, and how many fail. Values that are not finite must be equal.
void expect_close(std::span<const float> got, std::span<const double> ref, std::span<const double> allowance,
                  const char* what);

/// Normalised mean squared error: sum (got - ref)^2 / sum ref^2.
double nmse(std::span<const float> got, std::span<const double> ref);

/// Expects nmse <= limit; for chains of stages, whose element bounds would say nothing.
void expect_nmse(std::span<const float> got, std::span<const double> ref, double limit, const char* what);

}  // namespace winnow::test
