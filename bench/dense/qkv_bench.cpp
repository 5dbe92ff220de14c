// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/qkv.h"

#include "bench/support/check.h"
#include "bench/support/kv_rows.h"
#include "bench/support/registry.h"
#include "bench/support/rope_table.h"
#include "bench/support/weights.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/upload.h"
#include "tests/reference/qkv.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kPosition = 300, kCapacity = 1024;

// Rows of some heads of a matrix.
std::vector<std::uint32_t> rows_of(const std::vector<std::uint32_t>& heads, std::uint32_t head_dim) {
    std::vector<std::uint32_t> rows;
    for (const std::uint32_t head : heads)
        for (std::uint32_t d = 0; d < head_dim; ++d) rows.push_back(head * head_dim + d);
    return rows;
}

void run(benchmark::State& state, const Shape& s, WeightType type, KvType kv_type) {
    Bench& b = Bench::get();
    Qkv::Config c;
    c.n_embd = s.n_embd;
    c.n_heads = s.n_heads;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = c.n_rot = s.head_dim;
    c.type_q = c.type_k = c.type_v = type;
    c.kv_type = kv_type;
    const Qkv stage(b.device(), c);
    const Weights w(type, {s.q_dim(), s.kv_dim(), s.kv_dim()}, s.n_embd, b.rotation_bytes());
    KvConfig kv = kv_config(s, kCapacity, 1);
    kv.type = kv_type;
    const KvCache cache(b.device(), kv);
    const RopeTable rope(s.head_dim, kCapacity);
    const std::vector<std::uint32_t> act_words = random_activations(s.n_embd);
    const vk::Buffer st = b.state(kPosition), act = b.words(act_words), params = b.zeros(16),
                     query = b.buffer(s.q_dim() * 4);
    b.run(
        state, Qkv::bytes_moved(c),
        [&](vk::Recorder& r, std::uint32_t i) {
            stage.record(r,
                         {w.copy(i),
                          act,
                          st,
                          rope.buffer,
                          cache.tables(),
                          params,
                          query,
                          cache.keys(0),
                          cache.values(0),
                          {},
                          {},
                          {}},
                         {w.ref(0), w.ref(1), w.ref(2), 1e-5f, 1.0f, 0, 0, cache.layout().table_stride(), 0, 0});
        },
        [&] {
            const std::vector<std::uint32_t> heads = first_and_last(s.n_heads), kv_heads = first_and_last(s.n_kv_heads);
            const std::vector<std::uint32_t> q_rows = rows_of(heads, s.head_dim),
                                             kv_rows = rows_of(kv_heads, s.head_dim);
            const reference::Matrix q = w.rows(0, q_rows), k = w.rows(1, kv_rows), v = w.rows(2, kv_rows);
            const reference::Activations a = reference::dequantize_activations(act_words);
            const reference::QkvInput in{
                q, k, v, a, s.head_dim, s.head_dim, RopePairing::kNorm, {}, {}, {}, rope.frequencies, 1e-5, 1};
            const reference::QkvOutput expected = reference::qkv(in, kPosition);
            std::string wrong =
                difference(picked(vk::read_back_as<float>(b.device(), query), q_rows), expected.query.values, 1e-4);
            for (const bool is_keys : {true, false}) {
                const std::vector<float> pool = kv_values(
                    kv_type, s.head_dim, vk::read_back(b.device(), is_keys ? cache.keys(0) : cache.values(0)));
                std::vector<double> got;
                for (const std::uint32_t h : kv_heads) {
                    const auto row =
                        pool.begin() +
                        static_cast<std::ptrdiff_t>(
                            (std::size_t{cache.layout().head(0, h).first_block} * 64 + kPosition) * s.head_dim);
                    got.insert(got.end(), row, row + s.head_dim);
                }
                // What storing takes: a rounding to f16, or half a step of the codes.
                const double share = kv_type == KvType::kF16 ? 1e-3 : kv_type == KvType::kQ8_0 ? 1e-2 : 0.15;
                if (wrong.empty())
                    wrong = difference(got, is_keys ? expected.keys.values : expected.values.values, share);
            }
            return wrong;
        });
}

}  // namespace

void register_qkv() {
    const auto n_in = [](const Shape& s) { return s.n_embd; };
    register_matvecs("qkv", n_in, [](benchmark::State& state, const Shape& s, WeightType type) {
        run(state, s, type, KvType::kF16);
    });
    // Into a quantised cache groups of K and V take a whole head.
    for (const KvType kv_type : {KvType::kQ8_0, KvType::kQ4_0})
        for (const Shape& s : shapes())
            add_bench(label(std::string("qkv_to_") + kv_type_name(kv_type), s, WeightType::kQ4_0),
                      [s, kv_type](benchmark::State& state) { run(state, s, WeightType::kQ4_0, kv_type); });
}

}  // namespace winnow::bench
