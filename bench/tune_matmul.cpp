// SPDX-License-Identifier: Apache-2.0
#include "bench/tune_matmul.h"

#include <fmt/format.h>

#include <memory>

#include "bench/support/weights.h"
#include "runtime/prefill/matmul.h"

namespace winnow::bench {
namespace {

constexpr WeightType kType = WeightType::kQ4_0;

struct Product {
    const char* name;
    std::uint32_t n_rows, n_in;
};

}  // namespace

std::vector<Candidate> matmuls(const Shape& s, std::uint32_t n_tokens) {
    Bench& b = Bench::get();
    vk::Device& device = b.device();
    std::vector<Candidate> list;
    if (!device.prefers_matrices()) return list;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    for (const Product& p : {Product{"q", s.q_dim(), s.n_embd}, Product{"k", s.kv_dim(), s.n_embd},
                             Product{"gate", s.n_ff, s.n_embd}, Product{"down", s.n_embd, s.n_ff}}) {
        const auto w = std::make_shared<const Weights>(kType, std::vector{p.n_rows}, p.n_in, b.rotation_bytes() / 4);
        const auto in = std::make_shared<vk::Buffer>(b.buffer(std::uint64_t{n_tokens} * p.n_in * 2));
        const auto out = std::make_shared<vk::Buffer>(b.buffer(std::uint64_t{n_tokens} * p.n_rows * 4));
        for (const std::uint32_t token_parts : {1u, 2u, 4u})
            for (const std::uint32_t row_parts : {2u, 4u, 8u})
                for (const std::uint32_t token_groups : {1u, 2u, 4u})
                    for (const std::uint32_t row_groups : {1u, 2u, 4u}) {
                        const std::uint32_t groups = token_groups * row_groups, parts = token_parts * row_parts;
                        const std::uint32_t tokens = 16 * token_parts * token_groups,
                                            rows = 16 * row_parts * row_groups;
                        // Registers hold the sums; tiles that differ much from a square read more.
                        if (parts > 16 || groups < 2 || groups > 8 || groups * subgroup > 256 || rows > 4 * tokens ||
                            tokens > 2 * rows)
                            continue;
                        if (tokens * rows < 64 * 64 || 80 * (tokens + rows) > device.limits().max_shared_memory_bytes)
                            continue;
                        const Matmul::Config c{
                            p.n_in, kType, false, {token_parts, row_parts, token_groups, row_groups}};
                        list.push_back(
                            {fmt::format("matmul_{}/{}/{}", p.name, s.name, n_tokens),
                             fmt::format("{}x{} tokens x rows: parts {}x{}, subgroups {}x{}", tokens, rows, token_parts,
                                         row_parts, token_groups, row_groups),
                             Matmul::bytes_moved(c, p.n_rows, n_tokens),
                             12u,
                             [=, &device] {
                                 const auto stage = std::make_shared<Matmul>(device, c);
                                 return Record([=](vk::Recorder& r, std::uint32_t i) {
                                     stage->record(r, {w->copy(i), *in, *out}, {w->ref(), 0, n_tokens, p.n_rows, 0});
                                 });
                             },
                             {}});
                    }
    }
    return list;
}

}  // namespace winnow::bench
