// SPDX-License-Identifier: Apache-2.0
#include "tests/support/sparse_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "runtime/kv/kv_layout.h"
#include "tests/support/kv_rows.h"

namespace winnow::test {
namespace {

// Numbers that the type holds exactly: whole ones times a half, since the first of each 32 dimensions has the code of
// the largest magnitude. Scales lie around 2^-6 and 2^-2 and have all bits, so that a product of two halves is rarely
// another half.
void fill_quantized(KvType type, std::span<float> row, ReplicableRng& rng) {
    float scale = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
        const bool is_largest = i % 32 == 0;
        if (is_largest)
            scale = half_value(static_cast<std::uint16_t>((rng.integer(0, 1) + (type == KvType::kQ4_0 ? 12 : 8)) << 10 |
                                                          (rng.bits() & 0x3ff)));
        if (type == KvType::kQ4_0) {
            row[i] = scale * (is_largest ? -8.0f : static_cast<float>(rng.integer(-7, 7)));
        } else {
            const auto code = is_largest ? 127.0f : static_cast<float>(rng.integer(16, 126));
            row[i] = scale * ((rng.bits() & 1) != 0 ? -code : code);
        }
    }
}

}  // namespace

float half_value(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const int mantissa = bits & 1023;
    if (exponent == 31) return std::numeric_limits<float>::quiet_NaN();
    const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                      : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
    return (bits & 0x8000) != 0 ? -value : value;
}

std::uint16_t half_bits(double value) {
    if (std::isnan(value)) return 0x7fff;
    const int sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::abs(value);
    if (magnitude < 0x1p-14)  // subnormal: a count of 2^-24
        return static_cast<std::uint16_t>(sign | static_cast<int>(std::nearbyint(magnitude * 0x1p24)));
    int exponent = 0;
    const double fraction = std::frexp(magnitude, &exponent);                // [0.5, 1)
    const int mantissa = static_cast<int>(std::nearbyint(fraction * 2048));  // 1024 to 2048; 2048 carries
    return static_cast<std::uint16_t>(sign | (((exponent + 13) << 10) + mantissa));
}

std::string CacheShape::text() const {
    return fmt::format("n {} dim {} group {} {}", n_tokens, head_dim, n_group, kv_shader("kv", kv_type));
}

TestCache::TestCache(const CacheShape& cache_shape, std::uint64_t stream) : shape(cache_shape) {
    ReplicableRng rng(stream * 7919 + shape.n_tokens * 31 + shape.head_dim * 5 + shape.n_group);
    const std::uint32_t n_blocks = shape.position() / kBlock + 1;
    n_physical = n_blocks * shape.n_kv_heads + 2;  // two that nobody owns
    table_stride = WINNOW_TABLE_HEADER + n_blocks + 1;
    std::vector<std::uint32_t> physical(n_physical);
    for (std::uint32_t i = 0; i < n_physical; ++i) {
        physical[i] = i;
        std::swap(physical[i], physical[static_cast<std::size_t>(rng.integer(0, i))]);
    }
    for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) {
        reference::HeadView head;
        head.blocks.assign(physical.begin() + h * n_blocks, physical.begin() + (h + 1) * n_blocks);
        heads.push_back(head);
    }
    // Keys have a deviation of about 1, so a query of this size gives scores of the asked deviation.
    query = rng.normals(std::size_t{shape.n_heads()} * shape.head_dim, 0,
                        shape.spread / std::sqrt(static_cast<float>(shape.head_dim)));
    keys.assign(n_rows() * shape.head_dim, std::numeric_limits<float>::quiet_NaN());
    values = keys;
    for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) {
        for (std::uint32_t token = 0; token < shape.n_tokens; ++token) {
            const std::size_t at = key_at(h, token);
            if (is_quantized(shape.kv_type)) {
                fill_quantized(shape.kv_type, std::span(keys).subspan(at, shape.head_dim), rng);
                fill_quantized(shape.kv_type, std::span(values).subspan(at, shape.head_dim), rng);
                continue;
            }
            for (std::size_t i = at; i < at + shape.head_dim; ++i) {  // +-[1/4, 2): multiples of 2^-12
                keys[i] = half_value(static_cast<std::uint16_t>((rng.bits() & 0x8000) | (rng.integer(13, 15) << 10) |
                                                                (rng.bits() & 0x3ff)));
                values[i] = half_value(static_cast<std::uint16_t>((rng.bits() & 0x8000) | (rng.integer(13, 15) << 10) |
                                                                  (rng.bits() & 0x3ff)));
            }
        }
    }
}

void TestCache::set_window(std::uint32_t kv_head, std::uint32_t window, std::uint32_t sinks) {
    heads[kv_head].window = window;
    heads[kv_head].sink_tokens = sinks;
}

double TestCache::score_terms(std::uint32_t head) const {
    double largest = 0, norm = 0;
    for (const float key : keys)
        if (std::abs(key) > largest) largest = std::abs(key);  // not NaN
    for (std::size_t i = 0; i < shape.head_dim; ++i) norm += std::abs(query[head * shape.head_dim + i]);
    return largest * norm;
}

std::vector<std::uint32_t> TestCache::table() const {
    std::vector<std::uint32_t> words(table_offset + table_stride * heads.size(), 0x00ffffff);
    for (std::size_t h = 0; h < heads.size(); ++h) {
        std::uint32_t* row = words.data() + table_offset + h * table_stride;
        row[WINNOW_TABLE_SINK_BLOCKS] = heads[h].sink_blocks;
        row[WINNOW_TABLE_RING_BLOCKS] = heads[h].ring_blocks;
        row[WINNOW_TABLE_WINDOW] = heads[h].window;
        row[WINNOW_TABLE_SINK_TOKENS] = heads[h].sink_tokens;
        std::copy(heads[h].blocks.begin(), heads[h].blocks.end(), row + WINNOW_TABLE_HEADER);
    }
    return words;
}

vk::Buffer TestCache::upload(vk::Device& device, const std::vector<float>& rows) const {
    return make_buffer(device, std::span<const std::byte>(pack_rows(shape.kv_type, shape.head_dim, rows)), "pool");
}

vk::Buffer TestCache::upload_summary(vk::Device& device, const std::vector<float>& rows) const {
    const KvType type = shape.kv_type == KvType::kF32 ? KvType::kF32 : KvType::kF16;
    return make_buffer(device, std::span<const std::byte>(pack_rows(type, shape.head_dim, rows)), "summary");
}

double half_roundings(vk::Device& device, const AttendStage& stage, const AttendTuning& asked) {
    return is_quantized(stage.kv_type) && attend_variant(device, stage, asked).tuning.matrices ? 0x1p13 : 0;
}

void grade(TestCache& cache) {
    const CacheShape& shape = cache.shape;
    ReplicableRng rng(9);
    std::fill(cache.query.begin(), cache.query.end(), 0.0f);
    for (std::uint32_t head = 0; head < shape.n_heads(); ++head)
        cache.query[head * shape.head_dim + head % shape.n_group] = 8;
    for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h)
        for (std::uint32_t t = 0; t < shape.n_tokens; ++t)
            for (std::uint32_t g = 0; g < shape.n_group; ++g) {
                const bool weak = t % 9 == 4 || (t % 9 == 8 && g != 1);
                cache.keys[cache.key_at(h, t) + g] =
                    rounded_to_half(weak ? 0.2f : rng.uniform(0.9f, 1.1f));  // exp(1.6), exp(7.2)
            }
}

vk::Buffer make_sparse_state(vk::Device& device, std::uint32_t position, bool stopped) {
    StepState state{};
    state.position = position;
    state.stopped = stopped ? 1 : 0;
    return make_buffer(device, std::span<const StepState>(&state, 1), "state");
}

}  // namespace winnow::test
