// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/qkv.h"

#include <algorithm>
#include <bit>

#include "runtime/kv/kv_layout.h"
#include "tests/reference/qkv.h"
#include "tests/support/close.h"
#include "tests/support/dense_data.h"
#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr float kEps = 1e-5f;
constexpr std::uint32_t kCapacity = 1088;
constexpr std::uint32_t kLayer = 1;       // of two: table and RoPE offsets are not zero
constexpr std::uint32_t kRopeOffset = 5;  // vec2

struct Case {
    const char* name;
    Qkv::Config config;
    float freq_base = 10000;
    std::vector<std::uint32_t> first_kv_heads{0};  // of the ranges
};

// What a stage of this configuration binds, with random contents. Kv head 0 is full; the others are local with rings
// of different length, and the first of them keeps sinks. A range of kv heads has a buffer of its own.
class QkvRig {
public:
    QkvRig(vk::Device& device, const Qkv::Config& config, float freq_base,
           const std::vector<std::uint32_t>& first_kv_heads = {0})
        : c(config),
          rng(c.n_embd + c.head_dim),
          q(c.type_q, std::size_t{c.n_heads} * c.head_dim, c.n_embd, rng),
          k(c.type_k, std::size_t{c.n_kv_heads} * c.head_dim, c.n_embd, rng),
          v(c.type_v, std::size_t{c.n_kv_heads} * c.head_dim, c.n_embd, rng),
          layout(kv_config(config)),
          device_(device) {
        for (int i = 0; i < 3; ++i) {
            a.emplace_back(c.n_embd, rng);
            act_in_.push_back(make_buffer(device, std::span<const std::uint32_t>(a.back().words)));
        }
        const std::size_t q_rows = std::size_t{c.n_heads / c.n_kv_heads} * c.head_dim;
        for (std::size_t i = 0; i < first_kv_heads.size(); ++i) {
            const std::size_t begin = first_kv_heads[i];
            const std::size_t end = i + 1 < first_kv_heads.size() ? first_kv_heads[i + 1] : c.n_kv_heads;
            std::vector<std::byte> planes;
            QkvRange range;
            range.q = append_planes(planes, q, begin * q_rows, end * q_rows);
            range.k = append_planes(planes, k, begin * c.head_dim, end * c.head_dim);
            range.v = append_planes(planes, v, begin * c.head_dim, end * c.head_dim);
            weights_.push_back(make_buffer(device, std::span<const std::byte>(planes)));
            ranges_.push_back(range);
            Qkv::Config of_range = config;
            of_range.first_kv_head = first_kv_heads[i];
            if (first_kv_heads.size() > 1) of_range.n_range_kv_heads = static_cast<std::uint32_t>(end - begin);
            stages_.emplace_back(device, of_range);
        }
        make_tables();
        make_rope(freq_base);
        if (c.qk_norm) params_ = rng.normals(2 * c.head_dim, 1, 0.3f);
        if (c.bias) params_ = rng.normals(q.ref.n_rows + 2 * k.ref.n_rows);
        std::vector<float> bound = params_;
        bound.resize(std::max<std::size_t>(bound.size(), 4));
        params_buffer_ = make_buffer(device, std::span<const float>(bound));
        push_.eps = kEps;
        push_.scale = 0.125f;
        push_.rope_offset = kRopeOffset;
        push_.table_offset = layout.table_offset(kLayer);
        push_.table_stride = layout.table_stride();
    }

    // Appends the token at `position`, made of activations i.
    void run(std::uint32_t position, std::size_t i, const GuardedBuffer& query, const GuardedBuffer& keys,
             const GuardedBuffer& values, bool stopped = false) {
        const vk::Buffer state = make_state(device_, 0, position, stopped);
        vk::run_once(device_, [&](vk::Recorder& recorder) {
            Qkv::Buffers b{{},           act_in_[i],     state, rope_, tables_, params_buffer_, query.range(),
                           keys.range(), values.range(), {},    {},    {}};
            if (summary_min != nullptr) {
                b.summary_min = summary_min->range();
                b.summary_max = summary_max->range();
                b.summary_sum = summary_sum->range();
            }
            for (std::size_t r = 0; r < ranges_.size(); ++r) {
                b.weights = weights_[r];
                push_.q = ranges_[r].q;
                push_.k = ranges_[r].k;
                push_.v = ranges_[r].v;
                stages_[r].record(recorder, b, push_);
            }
        });
    }
    reference::QkvOutput expected(std::uint32_t position, std::size_t i) const {
        reference::QkvInput in{
            q.ref, k.ref, v.ref,        a[i].ref,          c.head_dim,         c.n_rot, c.pairing, {},
            {},    {},    frequencies_, double{push_.eps}, double{push_.scale}};
        const std::vector<double> params = to_doubles(params_);
        if (c.qk_norm) {
            in.q_norm.assign(params.begin(), params.begin() + c.head_dim);
            in.k_norm.assign(params.begin() + c.head_dim, params.end());
        }
        if (c.bias) in.bias = params;
        return reference::qkv(in, position);
    }
    // Physical block and first element of a token's row in the pools.
    std::uint32_t block(std::uint32_t kv_head, std::uint32_t position) const {
        const HeadLayout& head = layout.head(kLayer, kv_head);
        const std::uint32_t logical = position / c.block_size;
        const std::uint32_t slot = head.ring_blocks == 0 || logical < head.sink_blocks
                                       ? logical
                                       : head.sink_blocks + (logical - head.sink_blocks) % head.ring_blocks;
        return table_words_[push_.table_offset + kv_head * push_.table_stride + WINNOW_TABLE_HEADER + slot];
    }
    std::size_t element(std::uint32_t kv_head, std::uint32_t position) const {
        return (std::size_t{block(kv_head, position)} * c.block_size + position % c.block_size) * c.head_dim;
    }

    QkvPush& push() { return push_; }

    const Qkv::Config c;
    ReplicableRng rng;
    TestMatrix q, k, v;
    std::vector<TestActivations> a;
    KvLayout layout;
    const GuardedBuffer *summary_min = nullptr, *summary_max = nullptr, *summary_sum = nullptr;

private:
    static KvConfig kv_config(const Qkv::Config& c) {
        KvConfig kv{2, c.n_kv_heads, c.head_dim, kCapacity, c.block_size, 1, c.kv_type, {}};
        kv.roles.resize(2 * c.n_kv_heads);
        for (std::uint32_t i = 0; i < kv.roles.size(); ++i) {
            const std::uint32_t head = i % c.n_kv_heads;
            if (head != 0) kv.roles[i] = {true, 90 * head, head == 1 ? 70u : 0u};
        }
        return kv;
    }
    // The layout's tables with the physical blocks of the layer in random order: only the table says where a block is.
    void make_tables() {
        table_words_ = layout.tables();
        std::vector<std::uint32_t> order(layout.layer_blocks(kLayer));
        for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
        for (std::size_t i = order.size(); i > 1; --i)
            std::swap(order[i - 1], order[static_cast<std::size_t>(rng.integer(0, static_cast<int>(i) - 1))]);
        for (std::uint32_t head = 0; head < c.n_kv_heads; ++head) {
            std::uint32_t* row = &table_words_[layout.table_offset(kLayer) + head * layout.table_stride()];
            for (std::uint32_t b = 0; b < layout.head(kLayer, head).n_blocks; ++b)
                row[WINNOW_TABLE_HEADER + b] = order[row[WINNOW_TABLE_HEADER + b]];
        }
        tables_ = make_buffer(device_, std::span<const std::uint32_t>(table_words_));
    }
    void make_rope(float freq_base) {
        std::vector<float> table(2 * kRopeOffset, 1e9f);
        for (std::uint32_t i = 0; i < c.n_rot / 2; ++i)
            frequencies_.push_back(std::pow(double{freq_base}, -2.0 * i / c.n_rot));
        for (std::uint32_t p = 0; p < 256 + kCapacity / 256 + 1; ++p) {
            for (const double frequency : frequencies_) {
                const double angle = (p < 256 ? p : 256.0 * (p - 256)) * frequency;
                table.push_back(static_cast<float>(std::cos(angle)));
                table.push_back(static_cast<float>(std::sin(angle)));
            }
        }
        rope_ = make_buffer(device_, std::span<const float>(table));
    }

    vk::Device& device_;
    QkvPush push_{};
    std::vector<Qkv> stages_;  // of a range, as the next two
    std::vector<QkvRange> ranges_;
    std::vector<vk::Buffer> weights_;
    std::vector<vk::Buffer> act_in_;
    vk::Buffer tables_, rope_, params_buffer_;
    std::vector<std::uint32_t> table_words_;
    std::vector<float> params_;
    std::vector<double> frequencies_;
};

class QkvTest : public GpuTest, public ::testing::WithParamInterface<Case> {
protected:
    static std::vector<float> pool_values(const std::vector<std::byte>& pool, KvType type, std::size_t first,
                                          std::size_t n) {
        std::vector<float> values;
        for (std::size_t i = first; i < first + n; ++i) {
            if (type == KvType::kF32) {
                values.push_back(reinterpret_cast<const float*>(pool.data())[i]);
            } else {
                const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(pool.data())[i];
                values.push_back(static_cast<float>(reference::half_to_double(bits)));
            }
        }
        return values;
    }
    // Expects one row per kv head at its place, and the rest of the pool as it was.
    static void check_pool(const QkvRig& rig, const GuardedBuffer& buffer, std::uint32_t position,
                           const reference::Values& expected, double roundings, const char* what) {
        std::vector<std::byte> pool = buffer.bytes();
        const std::size_t dim = rig.c.head_dim;
        const std::vector<float> stored = unpack_rows(rig.c.kv_type, rig.c.head_dim, pool);
        std::vector<float> got;
        for (std::uint32_t head = 0; head < rig.c.n_kv_heads; ++head) {
            const std::size_t first = rig.element(head, position);
            got.insert(got.end(), stored.begin() + static_cast<std::ptrdiff_t>(first),
                       stored.begin() + static_cast<std::ptrdiff_t>(first + dim));
            for (const auto& [at, size] : row_bytes_of(rig.c.kv_type, rig.c.head_dim, first / dim))
                std::fill_n(pool.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{0xff});
        }
        std::vector<double> allowance = allowances(expected.terms, roundings);
        for (std::size_t i = 0; i < allowance.size(); ++i) {
            const std::size_t run = i - i % dim % 32;
            double largest = 0;
            for (std::size_t j = run; j < std::min(run + 32, i - i % dim + dim); ++j)
                largest = std::max(largest, std::abs(expected.values[j]));
            allowance[i] += storing_error(rig.c.kv_type, expected.values[i], largest);
        }
        expect_close(got, expected.values, allowance, what);
        const auto untouched = std::count(pool.begin(), pool.end(), std::byte{0xff});
        EXPECT_EQ(static_cast<std::size_t>(untouched), pool.size()) << what << ": written elsewhere";
    }
};

TEST_P(QkvTest, ProjectsRotatesAppends) {
    const Qkv::Config& c = GetParam().config;
    QkvRig rig(device(), c, GetParam().freq_base, GetParam().first_kv_heads);
    double roundings = matvec_roundings(c.n_embd) + rms_roundings(c.n_embd) + 1 + 3;  // bias; RoPE
    if (c.qk_norm) roundings += rms_roundings(c.head_dim * 32) + 2;
    for (const std::uint32_t position : {0u, 1u, 63u, 64u, 255u, 256u, 257u, 1021u}) {
        SCOPED_TRACE(::testing::Message() << "position " << position);
        const GuardedBuffer query(device(), "query", c.n_heads * c.head_dim * 4);
        const GuardedBuffer keys(device(), "keys", rig.layout.pool_bytes(kLayer));
        const GuardedBuffer values(device(), "values", rig.layout.pool_bytes(kLayer));
        rig.run(position, position % 3, query, keys, values);
        const reference::QkvOutput expected = rig.expected(position, position % 3);
        expect_close(query.contents<float>(), expected.query.values, allowances(expected.query.terms, roundings + 1),
                     "query");
        check_pool(rig, keys, position, expected.keys, roundings, "keys");
        check_pool(rig, values, position, expected.values, roundings, "values");
    }
}

Qkv::Config config(WeightType type, std::uint32_t n_embd, std::uint32_t n_heads, std::uint32_t n_kv_heads,
                   std::uint32_t head_dim, std::uint32_t n_rot, RopePairing pairing, KvType kv_type) {
    Qkv::Config c;
    c.n_embd = n_embd;
    c.n_heads = n_heads;
    c.n_kv_heads = n_kv_heads;
    c.head_dim = head_dim;
    c.n_rot = n_rot;
    c.pairing = pairing;
    c.type_q = c.type_k = c.type_v = type;
    c.kv_type = kv_type;
    return c;
}

std::vector<Case> cases() {
    using W = WeightType;
    constexpr RopePairing kNorm = RopePairing::kNorm, kNeox = RopePairing::kNeox;
    constexpr KvType kF16 = KvType::kF16, kF32 = KvType::kF32;
    std::vector<Case> list;
    for (const W type : kAllWeightTypes)
        list.push_back({"plain", config(type, is_k_type(type) ? 256 : 96, 3, 1, 64, 64, kNorm, kF16)});
    list.push_back({"group1_dim80_neox", config(W::kQ4_0, 576, 2, 2, 80, 80, kNeox, kF32)});
    list.push_back({"dim80_partial", config(W::kF16, 64, 3, 1, 80, 32, kNorm, kF32)});
    Case mixed{"mixed_types_block32", config(W::kQ4_K, 512, 8, 2, 128, 128, kNorm, kF16), 500000};
    mixed.config.type_v = W::kQ6_K;
    mixed.config.block_size = 32;
    list.push_back(mixed);
    Case bias{"bias_partial_neox", config(W::kQ8_0, 96, 4, 1, 128, 64, kNeox, kF16), 1000000};
    bias.config.bias = true;
    list.push_back(bias);
    Case gemma{"qk_norm_dim256", config(W::kQ5_0, 96, 4, 1, 256, 256, kNeox, kF32), 1000000};
    gemma.config.qk_norm = true;
    list.push_back(gemma);
    Case qwen{"qk_norm_partial", config(W::kQ6_K, 2048, 3, 3, 64, 32, kNorm, kF16)};
    qwen.config.qk_norm = true;
    list.push_back(qwen);
    list.push_back({"q8_cache", config(W::kQ4_0, 96, 4, 2, 64, 64, kNorm, KvType::kQ8_0)});
    list.push_back({"q4_cache_dim80_neox", config(W::kQ8_0, 96, 3, 1, 80, 80, kNeox, KvType::kQ4_0)});
    Case quantized{"q8_cache_qk_norm", config(W::kQ5_0, 96, 4, 1, 256, 256, kNeox, KvType::kQ8_0), 1000000};
    quantized.config.qk_norm = true;
    list.push_back(quantized);
    list.push_back({"wide", config(W::kQ4_1, 1536, 6, 2, 64, 64, kNorm, kF16)});
    Case shared{"shared_activations", config(W::kQ4_K, 512, 6, 2, 64, 64, kNorm, kF16)};  // as on GPUs
    shared.config.type_v = W::kQ6_K;
    shared.config.tuning = {64, 8, 1, 2, true};
    list.push_back(shared);
    // Ranges of kv heads: of unequal size, with everything that a head has a place of its own for.
    Case ranges{"ranges_bias", config(W::kQ4_K, 256, 6, 3, 64, 32, kNeox, kF16), 10000, {0, 2}};
    ranges.config.bias = true;
    ranges.config.type_k = W::kQ8_0;
    ranges.config.type_v = W::kQ6_K;
    list.push_back(ranges);
    Case normed{"ranges_qk_norm_q8_cache", config(W::kF32, 96, 6, 3, 64, 64, kNeox, KvType::kQ8_0), 10000, {0, 1, 2}};
    normed.config.qk_norm = true;
    list.push_back(normed);
    list.push_back({"ranges_of_single_heads", config(W::kF16, 96, 3, 3, 80, 80, kNorm, kF32), 10000, {0, 1, 2}});
    return list;
}

INSTANTIATE_TEST_SUITE_P(Shapes, QkvTest, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return type_name(test.param.config.type_q) + "_" + test.param.name; });

TEST_F(QkvTest, WritesNothingWhenStopped) {
    QkvRig rig(device(), config(WeightType::kQ8_0, 64, 2, 1, 64, 64, RopePairing::kNorm, KvType::kF16), 10000);
    const GuardedBuffer query(device(), "query", 2 * 64 * 4);
    const GuardedBuffer keys(device(), "keys", rig.layout.pool_bytes(kLayer));
    const GuardedBuffer values(device(), "values", rig.layout.pool_bytes(kLayer));
    rig.run(3, 0, query, keys, values, true);
    query.expect_untouched();
    keys.expect_untouched();
    values.expect_untouched();
}

TEST_F(QkvTest, RefusesBiasWithQkNorm) {
    Qkv::Config c = config(WeightType::kF32, 64, 2, 1, 64, 64, RopePairing::kNorm, KvType::kF16);
    c.bias = c.qk_norm = true;
    EXPECT_THROW(Qkv(device(), c), Error);
}

// The summaries of blocks and superblocks hold what the pool's keys say, to the bit: minimum, maximum, sum in order.
TEST_F(QkvTest, KeepsSummaries) {
    using Ranges = std::vector<std::uint32_t>;
    for (const auto& [kv_type, ranges] : {std::pair{KvType::kF16, Ranges{0}},
                                          {KvType::kF32, Ranges{0}},
                                          {KvType::kQ8_0, Ranges{0}},
                                          {KvType::kF16, Ranges{0, 1}}}) {
        Qkv::Config c = config(WeightType::kQ8_0, 64, 2, 2, 64, 64, RopePairing::kNorm, kv_type);
        c.summary_unit = 16;
        QkvRig rig(device(), c, 10000, ranges);
        const std::uint32_t per_block = c.block_size / c.summary_unit;
        const std::uint32_t super_first = rig.layout.layer_blocks(kLayer) * per_block + 3;
        const std::uint32_t n_rows = super_first + 2 * 2;
        const KvType summary_type = kv_type == KvType::kF32 ? kv_type : KvType::kF16;
        const std::size_t row_bytes = kv_row_bytes(summary_type, c.head_dim);
        const GuardedBuffer least(device(), "summary_min", n_rows * row_bytes);
        const GuardedBuffer most(device(), "summary_max", n_rows * row_bytes);
        const GuardedBuffer sums(device(), "summary_sum", n_rows * c.head_dim * 4);
        rig.summary_min = &least;
        rig.summary_max = &most;
        rig.summary_sum = &sums;
        rig.push().super_first = super_first;
        rig.push().super_stride = 2;
        const GuardedBuffer query(device(), "query", 2 * 64 * 4);
        const GuardedBuffer keys(device(), "keys", rig.layout.pool_bytes(kLayer));
        const GuardedBuffer values(device(), "values", rig.layout.pool_bytes(kLayer));
        struct Unit {
            std::uint32_t first, last;  // tokens of it that were appended
        };
        std::vector<std::uint32_t> positions;
        for (std::uint32_t p = 0; p < 35; ++p) positions.push_back(p);
        for (std::uint32_t p = 1024; p < 1043; ++p) positions.push_back(p);
        for (const std::uint32_t p : positions) rig.run(p, p % 3, query, keys, values);

        const std::vector<float> stored = unpack_rows(kv_type, c.head_dim, keys.bytes());
        std::vector<std::byte> min_bytes = least.bytes(), max_bytes = most.bytes(), sum_bytes = sums.bytes();
        const auto check = [&](std::uint32_t head, std::uint32_t row, Unit unit) {
            std::vector<float> low(c.head_dim), high(c.head_dim), sum(c.head_dim);
            for (std::uint32_t p = unit.first; p <= unit.last; ++p) {
                const std::vector<float> key(
                    stored.begin() + static_cast<std::ptrdiff_t>(rig.element(head, p)),
                    stored.begin() + static_cast<std::ptrdiff_t>(rig.element(head, p) + c.head_dim));
                for (std::uint32_t d = 0; d < c.head_dim; ++d) {
                    low[d] = p == unit.first ? key[d] : std::min(low[d], key[d]);
                    high[d] = p == unit.first ? key[d] : std::max(high[d], key[d]);
                    sum[d] = p == unit.first ? key[d] : sum[d] + key[d];
                }
            }
            for (std::uint32_t d = 0; is_quantized(kv_type) && d < c.head_dim; ++d) {
                low[d] = rounded_to_half(low[d]);
                high[d] = rounded_to_half(high[d]);
            }
            const std::size_t first = std::size_t{row} * c.head_dim;
            EXPECT_EQ(pool_values(min_bytes, summary_type, first, c.head_dim), low) << "row " << row;
            EXPECT_EQ(pool_values(max_bytes, summary_type, first, c.head_dim), high) << "row " << row;
            EXPECT_EQ(pool_values(sum_bytes, KvType::kF32, first, c.head_dim), sum) << "row " << row;
            for (std::vector<std::byte>* bytes : {&min_bytes, &max_bytes})
                std::fill_n(bytes->begin() + static_cast<std::ptrdiff_t>(row * row_bytes), row_bytes, std::byte{0xff});
            std::fill_n(sum_bytes.begin() + static_cast<std::ptrdiff_t>(first * 4), c.head_dim * 4, std::byte{0xff});
        };
        for (std::uint32_t head = 0; head < 2; ++head) {
            for (const Unit unit : {Unit{0, 15}, {16, 31}, {32, 34}, {1024, 1039}, {1040, 1042}})
                check(head, rig.block(head, unit.first) * per_block + unit.first % c.block_size / c.summary_unit, unit);
            check(head, super_first + 2 * head, {0, 34});
            check(head, super_first + 2 * head + 1, {1024, 1042});
        }
        for (const auto* bytes : {&min_bytes, &max_bytes, &sum_bytes})
            EXPECT_EQ(static_cast<std::size_t>(std::count(bytes->begin(), bytes->end(), std::byte{0xff})),
                      bytes->size());
    }
}

}  // namespace
}  // namespace winnow::test
