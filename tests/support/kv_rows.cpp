// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kv_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/kv/kv_layout.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::size_t kRun = 32;

std::size_t n_scales(std::uint32_t head_dim) { return (head_dim + kRun - 1) / kRun; }
std::size_t code_bytes(KvType type, std::uint32_t head_dim) { return type == KvType::kQ8_0 ? head_dim : head_dim / 2; }

struct Places {
    std::size_t codes, scales;  // first byte of a row's
};
Places places(KvType type, std::uint32_t head_dim, std::size_t row) {
    const std::size_t codes = code_bytes(type, head_dim), scales = 2 * n_scales(head_dim);
    const std::size_t block = row / kBlock * kBlock * (codes + scales);
    return {block + row % kBlock * codes, block + kBlock * codes + row % kBlock * scales};
}

// Byte and shift of dimension d among the codes of a row.
std::pair<std::size_t, int> code_place(KvType type, std::size_t d) {
    if (type == KvType::kQ8_0) return {d, 0};
    return {d / 8 * 4 + d % 4, d % 8 < 4 ? 0 : 4};
}

}  // namespace

std::vector<std::byte> pack_rows(KvType type, std::uint32_t head_dim, std::span<const float> rows) {
    const std::size_t n_rows = rows.size() / head_dim;
    std::vector<std::byte> pool(n_rows * kv_row_bytes(type, head_dim));
    if (type == KvType::kF32) {
        std::memcpy(pool.data(), rows.data(), pool.size());
        return pool;
    }
    if (type == KvType::kF16) {
        auto* halves = reinterpret_cast<std::uint16_t*>(pool.data());
        for (std::size_t i = 0; i < rows.size(); ++i) halves[i] = half_bits(static_cast<double>(rows[i]));
        return pool;
    }
    for (std::size_t row = 0; row < n_rows; ++row) {
        const Places at = places(type, head_dim, row);
        for (std::size_t first = 0; first < head_dim; first += kRun) {
            const auto run = rows.subspan(row * head_dim + first, std::min<std::size_t>(kRun, head_dim - first));
            double largest = 0;
            for (const float x : run)
                if (std::isnan(x) || std::abs(x) > std::abs(largest)) largest = static_cast<double>(x);
            const std::uint16_t bits = half_bits(type == KvType::kQ8_0 ? std::abs(largest) / 127 : largest / -8);
            std::memcpy(pool.data() + at.scales + first / kRun * 2, &bits, 2);
            const double scale = static_cast<double>(half_value(bits));
            for (std::size_t i = 0; i < run.size(); ++i) {
                const double steps = scale == 0 || std::isnan(scale) ? 0 : static_cast<double>(run[i]) / scale;
                const auto [byte, shift] = code_place(type, first + i);
                const int code = type == KvType::kQ8_0
                                     ? static_cast<int>(std::clamp(std::nearbyint(steps), -127.0, 127.0)) & 255
                                     : static_cast<int>(std::clamp(std::floor(steps + 8.5), 0.0, 15.0));
                pool[at.codes + byte] |= static_cast<std::byte>(code << shift);
            }
        }
    }
    return pool;
}

std::vector<float> unpack_rows(KvType type, std::uint32_t head_dim, std::span<const std::byte> pool) {
    const std::size_t n_rows = pool.size() / kv_row_bytes(type, head_dim);
    std::vector<float> rows(n_rows * head_dim);
    if (type == KvType::kF32) {
        std::memcpy(rows.data(), pool.data(), rows.size() * 4);
        return rows;
    }
    if (type == KvType::kF16) {
        const auto* halves = reinterpret_cast<const std::uint16_t*>(pool.data());
        std::transform(halves, halves + rows.size(), rows.begin(), half_value);
        return rows;
    }
    for (std::size_t row = 0; row < n_rows; ++row) {
        const Places at = places(type, head_dim, row);
        for (std::size_t d = 0; d < head_dim; ++d) {
            std::uint16_t bits = 0;
            std::memcpy(&bits, pool.data() + at.scales + d / kRun * 2, 2);
            const auto [byte, shift] = code_place(type, d);
            const int raw = std::to_integer<int>(pool[at.codes + byte]);
            const int code = type == KvType::kQ8_0 ? static_cast<std::int8_t>(raw) : (raw >> shift & 15) - 8;
            rows[row * head_dim + d] = half_value(bits) * static_cast<float>(code);
        }
    }
    return rows;
}

std::vector<std::pair<std::size_t, std::size_t>> row_bytes_of(KvType type, std::uint32_t head_dim, std::size_t row) {
    if (!is_quantized(type)) {
        const std::size_t bytes = kv_row_bytes(type, head_dim);
        return {{row * bytes, bytes}};
    }
    const Places at = places(type, head_dim, row);
    return {{at.codes, code_bytes(type, head_dim)}, {at.scales, 2 * n_scales(head_dim)}};
}

double storing_error(KvType type, double value, double largest) {
    switch (type) {
        case KvType::kF32: return 0;
        case KvType::kF16:
            return 0x1p-10 * std::abs(value) + 0x1p-24;  // packHalf2x16 may round either way
        // Half a step, and what the clamp takes where the scale was rounded down; a tie may fall either way.
        case KvType::kQ8_0: return 0.6 * largest / 127 + 0x1p-24;
        // Codes reach one step further on the side of the largest value than on the other.
        case KvType::kQ4_0: return 1.05 * largest / 8 + 0x1p-24;
    }
    return 0;
}

}  // namespace winnow::test
