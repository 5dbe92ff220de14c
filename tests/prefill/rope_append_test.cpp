// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/rope_append.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "runtime/dense/qkv.h"
#include "runtime/kv/kv_layout.h"
#include "tests/reference/attend_dense.h"
#include "tests/reference/rope_append.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-6f;
constexpr std::uint32_t kTableOffset = 3;
constexpr std::uint32_t kRopeOffset = 11;

struct Shape {
    std::string name;
    std::uint32_t head_dim = 64, n_rot = 64;
    RopePairing pairing = RopePairing::kNorm;
    bool qk_norm = false, bias = false;
    KvType kv_type = KvType::kF16;
    std::uint32_t n_heads = 6, n_kv_heads = 2;

    std::uint32_t n_all() const { return n_heads + 2 * n_kv_heads; }
    RopeAppend::Config config() const {
        return {n_heads, n_kv_heads, head_dim, n_rot, pairing, qk_norm, bias, kv_type, kBlock};
    }
};

/// What every token of a model shares: frequencies, parameters, and heads that are local (a ring) or not.
struct Layer {
    explicit Layer(const Shape& shape, std::uint32_t n_tokens_at_most) : s(shape), rng(shape.head_dim + shape.n_rot) {
        for (std::uint32_t i = 0; i < s.n_rot / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / s.n_rot));
        rope.assign(2 * kRopeOffset, std::numeric_limits<float>::quiet_NaN());
        for (std::uint32_t row = 0; row < 256 + n_tokens_at_most / 256 + 1; ++row) {
            for (const double f : frequencies) {
                const double angle = (row < 256 ? row : 256.0 * (row - 256)) * f;
                rope.push_back(static_cast<float>(std::cos(angle)));
                rope.push_back(static_cast<float>(std::sin(angle)));
            }
        }
        if (s.qk_norm) q_norm = rng.normals(s.head_dim, 1, 0.5f);
        if (s.qk_norm) k_norm = rng.normals(s.head_dim, 1, 0.5f);
        if (s.bias) bias = rng.normals(std::size_t{s.n_all()} * s.head_dim, 0, 2);
        params = q_norm;
        params.insert(params.end(), k_norm.begin(), k_norm.end());
        params.insert(params.end(), bias.begin(), bias.end());
        if (params.empty()) params.assign(4, std::numeric_limits<float>::quiet_NaN());
        // Head 0 holds every block, the others a ring of three and one sink block; physical blocks in odd places.
        const std::uint32_t n_full = n_tokens_at_most / kBlock + 1;
        std::uint32_t next = n_full + 4 * (s.n_kv_heads - 1);
        n_physical = next + 1;
        stride = WINNOW_TABLE_HEADER + n_full;
        for (std::uint32_t h = 0; h < s.n_kv_heads; ++h) {
            reference::HeadView head;
            if (h > 0) head.sink_blocks = 1;
            if (h > 0) head.ring_blocks = 3;
            head.blocks.resize(h == 0 ? n_full : 4);
            for (std::uint32_t& block : head.blocks) block = next--;
            heads.push_back(head);
        }
        tables.assign(kTableOffset + stride * heads.size(), 0x00ffffff);
        for (std::size_t h = 0; h < heads.size(); ++h) {
            std::uint32_t* row = tables.data() + kTableOffset + h * stride;
            row[WINNOW_TABLE_SINK_BLOCKS] = heads[h].sink_blocks;
            row[WINNOW_TABLE_RING_BLOCKS] = heads[h].ring_blocks;
            std::copy(heads[h].blocks.begin(), heads[h].blocks.end(), row + WINNOW_TABLE_HEADER);
        }
    }
    std::size_t pool_values() const { return std::size_t{n_physical} * kBlock * s.head_dim; }

    Shape s;
    ReplicableRng rng;
    std::vector<double> frequencies;
    std::vector<float> rope, q_norm, k_norm, bias, params;
    std::uint32_t n_physical = 0, stride = 0;
    std::vector<reference::HeadView> heads;
    std::vector<std::uint32_t> tables;
};

class RopeAppendTest : public GpuTest {
protected:
    struct Run {
        std::vector<float> query, keys, values;
    };
    static std::vector<float> pool_contents(KvType type, std::uint32_t head_dim, const GuardedBuffer& pool) {
        return unpack_rows(type, head_dim, pool.bytes());
    }
    static std::vector<float> half_contents(const GuardedBuffer& buffer) {
        std::vector<float> values;
        for (const std::uint16_t bits : buffer.contents<std::uint16_t>()) values.push_back(half_value(bits));
        return values;
    }

    static Run run(const RopeAppend& stage, const Layer& m, const std::vector<float>& projections,
                   std::uint32_t position, float scale) {
        const Shape& s = m.s;
        const auto n_tokens = static_cast<std::uint32_t>(projections.size() / (s.n_all() * s.head_dim));
        const std::size_t pool_bytes = m.pool_values() / s.head_dim * kv_row_bytes(s.kv_type, s.head_dim);
        const vk::Buffer in = make_buffer(projections);
        const vk::Buffer rope = make_buffer(m.rope);
        const vk::Buffer tables = make_buffer(m.tables);
        const vk::Buffer params = make_buffer(m.params);
        const GuardedBuffer query(device(), "query", std::size_t{n_tokens} * s.n_heads * s.head_dim * 2);
        const GuardedBuffer keys(device(), "keys", pool_bytes);
        const GuardedBuffer values(device(), "values", pool_bytes);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(recorder, {in, rope, tables, params, query.range(), keys.range(), values.range()},
                         {n_tokens, position, kEps, scale, kRopeOffset, kTableOffset, m.stride});
        });
        return {half_contents(query), pool_contents(s.kv_type, s.head_dim, keys),
                pool_contents(s.kv_type, s.head_dim, values)};
    }

    /// Roundings of a value: a head's norm (half of its sum of squares, root, two products), the angle's sum of two
    /// products of table entries, the rotation, the scale.
    static double n_roundings(const Shape& s) {
        return (s.n_rot > 0 ? 8 : 0) + 4 + (s.qk_norm ? s.head_dim / 16.0 + 8 : 0);
    }

    /// The pool as the reference fills it; NaN where nothing was written. Of tokens that share a place in a ring the
    /// last wins.
    static void expect_pool(const Layer& m, const std::vector<float>& got, const reference::Values& rows,
                            std::uint32_t position, const char* what) {
        const std::size_t dim = m.s.head_dim;
        std::vector<double> expected(m.pool_values(), std::numeric_limits<double>::quiet_NaN()), terms(m.pool_values());
        for (std::size_t i = 0; i < rows.values.size(); ++i) {
            const std::size_t row = i / dim;
            const auto token = static_cast<std::uint32_t>(position + row / m.heads.size());
            const std::size_t at = m.heads[row % m.heads.size()].row(token) * dim + i % dim;
            expected[at] = rows.values[i];
            terms[at] = rows.terms[i];
        }
        std::vector<double> allowance = allowances(terms, n_roundings(m.s));
        for (std::size_t i = 0; i < expected.size(); ++i) {
            if (std::isnan(expected[i])) continue;
            const std::size_t first = i - i % dim % 32;
            double largest = 0;
            for (std::size_t j = first; j < std::min(first + 32, i - i % dim + dim); ++j)
                largest = std::max(largest, std::abs(expected[j]));
            allowance[i] += storing_error(m.s.kv_type, expected[i], largest);
        }
        expect_close(got, expected, allowance, what);
    }
    static void add_half_rounding(const std::vector<double>& expected, std::vector<double>& allowance) {
        for (std::size_t i = 0; i < expected.size(); ++i)
            if (!std::isnan(expected[i])) allowance[i] += 0x1p-11 * std::abs(expected[i]) + 0x1p-25;
    }

    static void check(const Shape& s) {
        const RopeAppend stage(device(), s.config());
        Layer m(s, 6000);
        for (const auto& [position, n_tokens] :
             {std::pair{0u, 1u}, {0u, 33u}, {60u, 7u}, {63u, 1u}, {250u, 100u}, {5119u, 2u}}) {
            SCOPED_TRACE(fmt::format("{}: {} tokens at {}", s.name, n_tokens, position));
            const std::vector<float> projections = m.rng.normals(std::size_t{n_tokens} * s.n_all() * s.head_dim, 0, 3);
            const float scale = 0.37f;
            const Run got = run(stage, m, projections, position, scale);
            const reference::RopeAppendOutput ref =
                reference::rope_append({s.n_heads, s.n_kv_heads, s.head_dim, s.n_rot, s.pairing, projections, m.q_norm,
                                        m.k_norm, m.bias, m.frequencies, position, kEps, scale});
            std::vector<double> allowance = allowances(ref.query.terms, n_roundings(s));
            add_half_rounding(ref.query.values, allowance);
            expect_close(got.query, ref.query.values, allowance, "query");
            expect_pool(m, got.keys, ref.keys, position, "keys");
            expect_pool(m, got.values, ref.values, position, "values");
        }
    }
};

TEST_F(RopeAppendTest, MatchesReference) {
    check({"llama", 64, 64, RopePairing::kNorm});
    check({"llama f32", 64, 64, RopePairing::kNorm, false, false, KvType::kF32});
    check({"neox", 128, 128, RopePairing::kNeox});
    check({"gemma3", 256, 256, RopePairing::kNeox, true});
    check({"qwen2", 64, 64, RopePairing::kNeox, false, true});
    check({"bias", 80, 80, RopePairing::kNorm, false, true, KvType::kF32});
    check({"partial", 80, 32, RopePairing::kNorm});
    check({"partial neox", 96, 24, RopePairing::kNeox, true, false, KvType::kF32});
    check({"quantised", 64, 64, RopePairing::kNeox, false, false, KvType::kQ8_0});
    check({"quantised to 4 bits, a short run", 80, 80, RopePairing::kNorm, false, true, KvType::kQ4_0});
    check({"quantised gemma3", 256, 256, RopePairing::kNeox, true, false, KvType::kQ4_0});
    check({"one query head per kv head", 128, 64, RopePairing::kNeox, true, false, KvType::kF16, 3, 3});
}

// The decode step's qkv gives the same keys, values and queries. Its projections are the first column of its weights
// here, exactly: the activation vector is (1, 0, 0, ...) and its root mean square 1.
TEST_F(RopeAppendTest, AgreesWithTheDecodeStage) {
    for (const Shape& s : {Shape{"llama", 64, 64, RopePairing::kNorm, false, false, KvType::kF32},
                           Shape{"gemma3", 64, 64, RopePairing::kNeox, true, false, KvType::kF32},
                           Shape{"qwen2", 64, 32, RopePairing::kNeox, false, true, KvType::kF32}}) {
        SCOPED_TRACE(s.name);
        constexpr std::uint32_t kPosition = 300;
        Layer m(s, 512);
        const std::uint32_t n_rows = s.n_all() * s.head_dim;
        const TestMatrix q(WeightType::kF32, s.n_heads * s.head_dim, 32, m.rng);
        const TestMatrix k(WeightType::kF32, s.n_kv_heads * s.head_dim, 32, m.rng);
        const TestMatrix v(WeightType::kF32, s.n_kv_heads * s.head_dim, 32, m.rng);
        std::vector<float> projections;
        for (const TestMatrix* w : {&q, &k, &v})
            for (std::size_t row = 0; row < w->ref.n_rows; ++row)
                projections.push_back(static_cast<float>(w->ref.values[row * 32]));
        const Run prefill = run(RopeAppend(device(), s.config()), m, projections, kPosition, 0.125f);

        std::vector<std::byte> planes;
        const MatrixRef q_ref = append_planes(planes, q, 0, q.ref.n_rows);
        const MatrixRef k_ref = append_planes(planes, k, 0, k.ref.n_rows);
        const MatrixRef v_ref = append_planes(planes, v, 0, v.ref.n_rows);
        std::vector<std::uint32_t> act(20);
        act[0] = 64;  // 128 * 64 * 2^-13 = 1
        act[16] = std::bit_cast<std::uint32_t>(0x1p-13f);
        act[17] = std::bit_cast<std::uint32_t>(1.0f);
        act[19] = std::bit_cast<std::uint32_t>(32.0f * (1 - kEps));  // mean square + eps = 1
        const vk::Buffer weights = make_buffer(planes);
        const vk::Buffer acts = make_buffer(act);
        const vk::Buffer state = make_state(device(), 0, kPosition);
        const vk::Buffer rope = make_buffer(m.rope);
        const vk::Buffer tables = make_buffer(m.tables);
        const vk::Buffer params = make_buffer(m.params);
        const GuardedBuffer query(device(), "query", s.n_heads * s.head_dim * sizeof(float));
        const GuardedBuffer keys(device(), "keys", m.pool_values() * sizeof(float));
        const GuardedBuffer values(device(), "values", m.pool_values() * sizeof(float));
        Qkv::Config config;
        config.n_embd = 32;
        config.n_heads = s.n_heads;
        config.n_kv_heads = s.n_kv_heads;
        config.head_dim = s.head_dim;
        config.n_rot = s.n_rot;
        config.pairing = s.pairing;
        config.qk_norm = s.qk_norm;
        config.bias = s.bias;
        config.kv_type = s.kv_type;
        const Qkv stage(device(), config);
        vk::run_once(device(), [&](vk::Recorder& recorder) {
            stage.record(
                recorder,
                {weights, acts, state, rope, tables, params, query.range(), keys.range(), values.range(), {}, {}, {}},
                {q_ref, k_ref, v_ref, kEps, 0.125f, kRopeOffset, kTableOffset, m.stride, 0, 0});
        });
        const auto expect_same = [](const std::vector<float>& decode, const std::vector<float>& other, double share,
                                    const char* what) {
            std::vector<double> ref, allowance;
            for (const float value : other) {
                ref.push_back(value);
                allowance.push_back(std::isnan(value) ? 0 : share * std::abs(value) + 0x1p-25);
            }
            expect_close(decode, ref, allowance, what);
        };
        ASSERT_EQ(projections.size(), n_rows);
        expect_same(query.contents<float>(), prefill.query, 0x1p-11 + 0x1p-20, "query");
        expect_same(keys.contents<float>(), prefill.keys, 0x1p-20, "keys");
        expect_same(values.contents<float>(), prefill.values, 0x1p-20, "values");
    }
}

}  // namespace
}  // namespace winnow::test
