// SPDX-License-Identifier: Apache-2.0
#include "bench/support/attention_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <utility>

#include "bench/support/check.h"
#include "runtime/attention/attend_dense.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kMostLayers = 32;

// So many that they do not fit a GPU's cache together.
std::uint32_t rotated_layers(const AttentionCase& at) {
    const std::uint64_t layer = 2ull * at.n_tokens * at.shape.n_kv_heads * kv_row_bytes(at.kv_type, at.shape.head_dim);
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(Bench::get().rotation_bytes() / layer, 1, kMostLayers));
}

// Scores of a query of random_halves and keys of about 1/2 in each dimension spread by 1.5 or so.
std::vector<float> random_query(const Shape& shape) {
    std::vector<float> query = random_halves(shape.q_dim(), 3);
    for (float& x : query) x *= 5.0f / std::sqrt(static_cast<float>(shape.head_dim));
    return query;
}

std::vector<Shape> head_shapes(bool is_cpu) {
    std::vector<Shape> list;
    for (const std::uint32_t dim : {64u, 128u, 256u})
        for (std::uint32_t group = 1; group <= 8; ++group) {
            Shape s;
            s.name = fmt::format("dim:{}/group:{}", dim, group);
            s.n_kv_heads = is_cpu ? 2 : 8;
            s.n_heads = s.n_kv_heads * group;
            s.head_dim = dim;
            if (!is_cpu || (group == 1 && dim != 128)) list.push_back(s);
        }
    return list;
}

}  // namespace

void register_attention(const std::string& stage, const AttentionCases& cases,
                        const std::function<void(benchmark::State&, const AttentionCase&)>& run) {
    const auto add = [&](const Shape& shape, KvType type, std::uint32_t n_tokens) {
        const std::string kv = cases.kv_types.size() > 1 ? fmt::format("/kv:{}", kv_type_name(type)) : "";
        add_bench(fmt::format("{}/{}{}/n_tokens:{}", stage, shape.name, kv, n_tokens),
                  [run, at = AttentionCase{shape, type, n_tokens}](benchmark::State& state) { run(state, at); });
    };
    const bool is_cpu = Bench::get().device().is_cpu();
    for (const Shape& shape : shapes())
        for (const KvType type : cases.kv_types)
            for (const std::uint32_t n_tokens : {1024u, 8192u, 32768u, 131072u})
                if (!is_cpu || n_tokens <= (type == KvType::kF16 ? 8192u : 1024u)) add(shape, type, n_tokens);
    if (!cases.every_head) return;
    for (const Shape& shape : head_shapes(is_cpu))
        for (const KvType type : cases.kv_types)
            for (const std::uint32_t n_tokens :
                 is_cpu ? std::vector<std::uint32_t>{1024} : std::vector<std::uint32_t>{32768, 131072})
                add(shape, type, n_tokens);
}

AttentionSetup::AttentionSetup(const AttentionCase& at)
    : kv_type(at.kv_type),
      cache(at.shape, at.n_tokens, at.kv_type, rotated_layers(at)),
      n_splits(AttendDense::default_splits(Bench::get().device(), at.shape.n_kv_heads, at.n_tokens, 64)),
      query_values(random_query(at.shape)),
      state(Bench::get().state(at.n_tokens - 1)),
      query(f32_buffer(query_values)),
      partials(Bench::get().buffer(
          attend_partial_bytes(at.shape.n_heads, at.shape.n_kv_heads, at.shape.head_dim, n_splits))),
      counters(Bench::get().zeros(256)),
      attended(Bench::get().buffer(at.shape.q_dim() * 4)),
      act_out(Bench::get().buffer(activation_bytes(at.shape.q_dim()))) {}

std::string AttentionSetup::check_attended(const Expected& expected) const {
    const std::vector<float> all = vk::read_back_as<float>(Bench::get().device(), attended);
    const auto check_head = [&](std::uint32_t head) -> std::string {
        const std::uint32_t kv_head = head / n_group();
        const reference::HeadView view = cache.head(kv_head);
        const auto got = std::span<const float>(all).subspan(std::size_t{head} * cache.head_dim(), cache.head_dim());
        const std::vector<double> right = expected(query_of(head), cache.view({&view, 1}), kv_head);
        // Matrix units take quantised values as halves.
        const double share = kv_type == KvType::kQ8_0 || kv_type == KvType::kQ4_0 ? 1e-3 : 3e-4;
        const std::string wrong = difference({got.begin(), got.end()}, right, share);
        return wrong.empty() ? wrong : fmt::format("query head {}: {}", head, wrong);
    };
    std::vector<std::future<std::string>> checks;  // beside each other: the reference goes through the whole cache
    for (const std::uint32_t head : first_and_last(n_heads()))
        checks.push_back(std::async(std::launch::async, check_head, head));
    std::string wrong;
    for (std::future<std::string>& check : checks)
        if (std::string text = check.get(); wrong.empty()) wrong = std::move(text);
    return wrong;
}

}  // namespace winnow::bench
