// SPDX-License-Identifier: Apache-2.0
#include "tests/support/index_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/support/kv_rows.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

// First byte of a row's codes and of its scale.
std::pair<std::size_t, std::size_t> places(std::uint32_t dim, std::size_t row) {
    const std::size_t block = row / kBlock * kBlock * (dim + 2);
    return {block + row % kBlock * dim, block + kBlock * dim + row % kBlock * 2};
}

}  // namespace

std::vector<std::byte> pack_index_rows(IndexType type, std::uint32_t index_dim, std::span<const float> rows) {
    if (type == IndexType::kF16) return pack_rows(KvType::kF16, index_dim, rows);
    const std::size_t n_rows = rows.size() / index_dim;
    std::vector<std::byte> plane(n_rows * (index_dim + 2));
    for (std::size_t row = 0; row < n_rows; ++row) {
        const auto values = rows.subspan(row * index_dim, index_dim);
        double largest = 0;
        for (const float x : values) largest = std::isnan(x) ? double{x} : std::max(largest, std::abs(double{x}));
        const auto [codes, scale_at] = places(index_dim, row);
        const std::uint16_t bits = half_bits(largest / 127);
        std::memcpy(plane.data() + scale_at, &bits, 2);
        const double scale = double{half_value(bits)};
        for (std::size_t i = 0; i < index_dim; ++i) {
            const double steps = scale == 0 || std::isnan(scale) ? 0 : double{values[i]} / scale;
            plane[codes + i] =
                static_cast<std::byte>(static_cast<int>(std::clamp(std::nearbyint(steps), -127.0, 127.0)) & 255);
        }
    }
    return plane;
}

std::vector<float> unpack_index_rows(IndexType type, std::uint32_t index_dim, std::span<const std::byte> plane) {
    if (type == IndexType::kF16) return unpack_rows(KvType::kF16, index_dim, plane);
    std::vector<float> rows(plane.size() / (index_dim + 2) * index_dim);
    for (std::size_t row = 0; row < rows.size() / index_dim; ++row) {
        const auto [codes, scale_at] = places(index_dim, row);
        std::uint16_t bits = 0;
        std::memcpy(&bits, plane.data() + scale_at, 2);
        for (std::size_t i = 0; i < index_dim; ++i)
            rows[row * index_dim + i] =
                half_value(bits) * static_cast<float>(std::to_integer<std::int8_t>(plane[codes + i]));
    }
    return rows;
}

double index_storing_error(IndexType type, double value, double largest) {
    return type == IndexType::kF16 ? storing_error(KvType::kF16, value, largest)
                                   : storing_error(KvType::kQ8_0, value, largest);
}

}  // namespace winnow::test
