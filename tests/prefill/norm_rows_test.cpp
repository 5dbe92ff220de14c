// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/norm_rows.h"

#include <fmt/format.h>

#include <cmath>

#include "tests/reference/norm_rows.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-5f;

class NormRowsTest : public GpuTest {
protected:
    struct Inputs {
        std::vector<float> input, weight, x;
    };
    static Inputs make_inputs(std::uint32_t n, std::uint32_t n_tokens) {
        ReplicableRng rng(n + n_tokens);
        Inputs in;
        // Rows of all sizes: 1, 10, 100, 0.001 (where eps matters) and nothing but zeros.
        constexpr float kSizes[] = {1, 10, 100, 0.001f, 0};
        for (std::uint32_t token = 0; token < n_tokens; ++token)
            for (std::uint32_t i = 0; i < n; ++i) in.input.push_back(rng.normal(0, kSizes[token % 5]));
        in.weight = rng.normals(n, 1, 0.5f);
        in.x = rng.normals(in.input.size(), 0, 3);
        return in;
    }
    /// 1 / rms: half of what the sum of squares errs (a serial sum of dot products of 4 per lane of at least 8, then a
    /// tree), the root's 2 ULP; then two products.
    static double n_roundings(std::uint32_t n) { return (n / 4.0 / 8 + 5 + 7) / 2 + 4 + 2; }
};

TEST_F(NormRowsTest, WritesHalves) {
    for (const std::uint32_t n : {32u, 96u, 576u, 2048u}) {
        const NormRows stage(device(), {n, false});
        for (const std::uint32_t n_tokens : {1u, 5u, 33u}) {
            SCOPED_TRACE(fmt::format("n {} tokens {}", n, n_tokens));
            const Inputs in = make_inputs(n, n_tokens);
            const vk::Buffer input = make_buffer(in.input);
            const vk::Buffer weight = make_buffer(in.weight);
            const GuardedBuffer halves(device(), "halves", in.input.size() * 2);
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                stage.record(recorder, {input, weight, halves.range(), input}, {n_tokens, kEps});
            });
            std::vector<float> got;
            for (const std::uint16_t bits : halves.contents<std::uint16_t>()) got.push_back(half_value(bits));
            const reference::Values ref = reference::norm_rows(in.input, in.weight, kEps);
            std::vector<double> allowance = allowances(ref.terms, n_roundings(n));
            for (std::size_t i = 0; i < allowance.size(); ++i) allowance[i] += 0x1p-11 * ref.terms[i] + 0x1p-25;
            expect_close(got, ref.values, allowance, "halves");
        }
    }
}

TEST_F(NormRowsTest, AddsToTheResidualStream) {
    for (const std::uint32_t n : {96u, 576u}) {
        const NormRows stage(device(), {n, true});
        for (const std::uint32_t n_tokens : {1u, 5u, 33u}) {
            SCOPED_TRACE(fmt::format("n {} tokens {}", n, n_tokens));
            const Inputs in = make_inputs(n, n_tokens);
            const vk::Buffer input = make_buffer(in.input);
            const vk::Buffer weight = make_buffer(in.weight);
            const GuardedBuffer halves(device(), "halves", in.input.size() * 2);
            const GuardedBuffer x(device(), "x", std::as_bytes(std::span(in.x)));
            vk::run_once(device(), [&](vk::Recorder& recorder) {
                stage.record(recorder, {input, weight, halves.range(), x.range()}, {n_tokens, kEps});
            });
            reference::Values ref = reference::norm_rows(in.input, in.weight, kEps);
            for (std::size_t i = 0; i < in.x.size(); ++i) {
                ref.values[i] += double{in.x[i]};
                ref.terms[i] += std::abs(double{in.x[i]});
            }
            expect_close(x.contents<float>(), ref.values, allowances(ref.terms, n_roundings(n) + 1), "x");
            halves.expect_untouched();
        }
    }
}

}  // namespace
}  // namespace winnow::test
