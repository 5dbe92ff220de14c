// SPDX-License-Identifier: Apache-2.0
#include "tests/support/dense_data.h"

#include <algorithm>
#include <cmath>

#include "runtime/weights/weight_planes.h"
#include "tests/support/close.h"

namespace winnow::test {

TestMatrix::TestMatrix(WeightType weight_type, std::size_t n_rows, std::size_t n_in, ReplicableRng& rng)
    : type(weight_type),
      blocks(random_blocks(weight_type, n_rows, n_in, rng)),
      ref(reference::dequantize(weight_type, blocks, n_rows, n_in)) {}

MatrixRef append_planes(std::vector<std::byte>& bytes, const TestMatrix& m, std::size_t begin, std::size_t end) {
    const std::size_t at = bytes.size() + 48;
    const std::size_t row = stored_row_bytes(m.type, m.ref.n_in);
    const std::size_t n_rows = end - begin;
    bytes.resize(at + weight_planes(m.type, n_rows, m.ref.n_in).total, std::byte{0xff});
    repack_rows(m.type, std::span(m.blocks).subspan(begin * row, n_rows * row), m.ref.n_in, n_rows, 0, n_rows,
                std::span(bytes).subspan(at));
    return {static_cast<std::uint32_t>(at / 16), static_cast<std::uint32_t>(n_rows),
            static_cast<std::uint32_t>(m.type)};
}

TestActivations::TestActivations(std::size_t n, ReplicableRng& rng) {
    std::vector<float> values, squares;
    for (std::size_t i = 0; i < n; ++i) {
        const float x = rng.normal(0, 3) * (i % 97 == 5 ? 20.0f : 1.0f);  // outliers, as models have them
        values.push_back(x * rng.uniform(-0.5f, 1.5f));
        squares.push_back(x * x);
    }
    words = reference::quantize_activations(values, squares);
    ref = reference::dequantize_activations(words);
}

vk::Buffer make_state(vk::Device& device, std::uint32_t token, std::uint32_t position, bool stopped) {
    StepState state{};
    state.token = token;
    state.position = position;
    state.stopped = stopped ? 1 : 0;
    return make_buffer(device, std::span<const StepState>(&state, 1), "state");
}

std::vector<double> to_doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

std::vector<double> allowances(const std::vector<double>& terms, double n_roundings) {
    std::vector<double> a;
    for (const double t : terms) a.push_back(n_roundings * kRounding * t + 1e-37);
    return a;
}

void expect_activations(const std::vector<std::uint32_t>& words, const std::vector<double>& values,
                        const std::vector<double>& allowance, const std::vector<double>& squares,
                        const std::vector<double>& squares_allowance, const char* what) {
    ASSERT_EQ(words.size(), values.size() / 32 * 20) << what;
    const reference::Activations got = reference::dequantize_activations(words);
    std::vector<double> value_allowance = allowance;
    std::vector<double> sums, sums_allowance;
    for (std::size_t block = 0; block < values.size() / 32; ++block) {
        const std::size_t first = 32 * block;
        double largest = 0;
        int largest_code = 0;
        double sum[2] = {0, 0};
        for (std::size_t e = first; e < first + 32; ++e) {
            const int code = 128 * got.high[e] + got.low[e];
            ASSERT_TRUE(std::abs(got.high[e]) <= 127 && got.low[e] >= -64 && got.low[e] < 64)
                << what << " [" << e << "]";
            largest = std::max(largest, std::abs(values[e]) + allowance[e]);
            largest_code = std::max(largest_code, std::abs(code));
            sum[(e - first) / 16] += code;
        }
        EXPECT_EQ(largest_code, got.scales[block] > 1e-34 ? 127 * 128 : 0) << what << " block " << block;
        for (std::size_t e = first; e < first + 32; ++e) value_allowance[e] += 0.505 * largest / (127 * 128);
        // Two roundings of a product of floats.
        for (const double s : sum) {
            sums.push_back(got.scales[block] * s);
            sums_allowance.push_back(2 * kRounding * std::abs(sums.back()) + 1e-37);
        }
    }
    const auto floats = [](const std::vector<double>& v) { return std::vector<float>(v.begin(), v.end()); };
    std::vector<float> got_sums;
    for (std::size_t block = 0; block < got.sums_a.size(); ++block) {
        got_sums.push_back(static_cast<float>(got.sums_a[block]));
        got_sums.push_back(static_cast<float>(got.sums_b[block]));
    }
    expect_close(floats(got.values), values, value_allowance, what);
    expect_close(got_sums, sums, sums_allowance, (std::string(what) + ": sums of the codes").c_str());
    expect_close(floats(got.squares), squares, squares_allowance, (std::string(what) + ": squares").c_str());
}

void expect_residual(const GuardedBuffer& x, const GuardedBuffer& act, const reference::Residual& expected,
                     double n_roundings, const char* what) {
    const std::vector<double> x_allowance = allowances(expected.x.terms, n_roundings);
    const std::vector<float> got = x.contents<float>();
    expect_close(got, expected.x.values, x_allowance, (std::string(what) + ": x").c_str());
    std::vector<double> squares, squares_allowance;
    for (std::size_t i = 0; i < expected.x.values.size(); ++i) {
        if (i % 32 == 0) {
            squares.push_back(0);
            squares_allowance.push_back(1e-37);
        }
        const double value = expected.x.values[i];
        squares.back() += value * value;
        // From the value's own error, and 33 roundings of a serial sum of squares.
        squares_allowance.back() +=
            (2 * std::abs(value) + x_allowance[i]) * x_allowance[i] + 33 * kRounding * value * value;
    }
    expect_activations(act.contents<std::uint32_t>(), expected.normed.values,
                       allowances(expected.normed.terms, n_roundings + 1), squares, squares_allowance,
                       (std::string(what) + ": next input").c_str());
}

}  // namespace winnow::test
