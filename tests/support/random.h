// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <vector>

namespace winnow::test {

/// Test data that --gtest_random_seed=N repeats (0 without it). Streams give one test several
/// independent sequences. The distributions are spelt out: the standard's differ between libraries.
class ReplicableRng {
public:
    explicit ReplicableRng(std::uint64_t stream = 0)
        : engine_((static_cast<std::uint64_t>(GTEST_FLAG_GET(random_seed)) + 1) * 0x9e3779b97f4a7c15u + stream) {}

    std::uint64_t bits() { return engine_(); }
    /// In [0, 1).
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    /// In [low, high).
    float uniform(float low, float high) {
        return static_cast<float>(low + (static_cast<double>(high) - low) * uniform());
    }
    /// In [low, high], both included.
    std::int64_t integer(std::int64_t low, std::int64_t high) {
        const auto n = static_cast<std::uint64_t>(high - low) + 1;
        return low + static_cast<std::int64_t>(n == 0 ? bits() : bits() % n);
    }
    /// Box and Muller's.
    float normal(float mean = 0, float deviation = 1) {
        const double radius = std::sqrt(-2 * std::log(1 - uniform()));
        const double value = radius * std::cos(2 * std::numbers::pi * uniform());
        return static_cast<float>(mean + deviation * value);
    }
    std::vector<float> normals(std::size_t n, float mean = 0, float deviation = 1) {
        std::vector<float> values(n);
        for (float& value : values) value = normal(mean, deviation);
        return values;
    }
    std::vector<float> uniforms(std::size_t n, float low, float high) {
        std::vector<float> values(n);
        for (float& value : values) value = uniform(low, high);
        return values;
    }

private:
    std::mt19937_64 engine_;
};

}  // namespace winnow::test
