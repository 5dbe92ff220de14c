// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/gate_rows.h"

#include <fmt/format.h>

#include <cmath>

#include "tests/reference/gate_rows.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

class GateRowsTest : public GpuTest {};

TEST_F(GateRowsTest, MatchesReference) {
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
        for (const std::uint32_t n_ff : {32u, 100u, 1536u}) {
            const GateRows stage(device(), {n_ff, activation});
            for (const std::uint32_t n_tokens : {1u, 7u, 33u}) {
                SCOPED_TRACE(fmt::format("{} n_ff {} tokens {}", activation == Activation::kSilu ? "silu" : "gelu",
                                         n_ff, n_tokens));
                ReplicableRng rng(n_ff + n_tokens);
                std::vector<float> gate_up = rng.normals(std::size_t{n_tokens} * 2 * n_ff, 0, 5);
                // Gates beyond what exp can hold, and where the functions bend.
                constexpr float kGates[] = {0.0f, -0.0f, 1e-6f, -1.0f, 12.0f, -12.0f, 90.0f, -90.0f, 1000.0f, -1000.0f};
                for (std::size_t i = 0; i < std::size(kGates); ++i) {
                    gate_up[i] = kGates[i];
                    gate_up[i + n_ff] = 3;
                }
                const vk::Buffer in = make_buffer(gate_up);
                const GuardedBuffer halves(device(), "halves", std::size_t{n_tokens} * n_ff * 2);
                vk::run_once(device(), [&](vk::Recorder& recorder) {
                    stage.record(recorder, {in, halves.range()}, {n_tokens});
                });
                std::vector<float> got;
                for (const std::uint16_t bits : halves.contents<std::uint16_t>()) got.push_back(half_value(bits));
                const reference::Values ref = reference::gate_rows(gate_up, n_ff, activation);
                // exp: 3 + 2 |x| ULP in Vulkan; the argument of GELU comes from six roundings; four after it.
                std::vector<double> allowance = allowances(ref.terms, 16);
                for (std::size_t i = 0; i < allowance.size(); ++i)
                    allowance[i] += 0x1p-11 * std::abs(ref.values[i]) + 0x1p-25;
                expect_close(got, ref.values, allowance, "halves");
            }
        }
    }
}

}  // namespace
}  // namespace winnow::test
