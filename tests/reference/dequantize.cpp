// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/dequantize.h"

#include <bit>
#include <cmath>

namespace winnow::reference {
namespace {

using Bytes = const std::uint8_t*;

unsigned u16(Bytes p) { return p[0] | (p[1] << 8u); }
double half(Bytes p) { return half_to_double(static_cast<std::uint16_t>(u16(p))); }
int i8(std::uint8_t byte) { return byte < 128 ? byte : byte - 256; }

// Collects value = scale * code + offset.
struct Out {
    Matrix& m;
    void add(double scale_times_code, double offset) {
        m.values.push_back(scale_times_code + offset);
        m.magnitudes.push_back(std::abs(scale_times_code) + std::abs(offset));
    }
};

void one_float(WeightType type, Bytes p, Out out) {
    if (type == WeightType::kF16) return out.add(half(p), 0);
    const bool wide = type == WeightType::kF32;
    const std::uint32_t bits = wide ? u16(p) | (u16(p + 2) << 16) : u16(p) << 16;
    out.add(static_cast<double>(std::bit_cast<float>(bits)), 0);
}

// Q4_0, Q4_1, Q5_0, Q5_1: d, perhaps m, perhaps 32 fifth bits, 16 bytes: low nibbles are weights 0-15, high ones 16-31.
void block_32(WeightType type, Bytes p, Out out) {
    const bool has_min = type == WeightType::kQ4_1 || type == WeightType::kQ5_1;
    const bool five = type == WeightType::kQ5_0 || type == WeightType::kQ5_1;
    const double d = half(p);
    const double m = has_min ? half(p + 2) : (five ? -16 : -8) * d;
    p += has_min ? 4 : 2;
    const std::uint32_t fifth = five ? u16(p) | (u16(p + 2) << 16) : 0;
    p += five ? 4 : 0;
    for (unsigned i = 0; i < 32; ++i) {
        const unsigned nibble = i < 16 ? p[i] & 15u : p[i - 16] >> 4u;
        out.add(d * (nibble | ((fifth >> i) & 1) << 4), m);
    }
}

void block_q8_0(Bytes p, Out out) {
    for (int i = 0; i < 32; ++i) out.add(half(p) * i8(p[2 + i]), 0);
}

// Q4_K, Q5_K: 8 groups of 32 with 6-bit scales and mins in 12 bytes.
void block_k45(bool five, Bytes p, Out out) {
    const Bytes s = p + 4;
    const Bytes high = p + 16;
    const Bytes low = p + (five ? 48 : 16);
    for (unsigned g = 0; g < 8; ++g) {
        const unsigned scale = g < 4 ? s[g] & 63u : (s[g + 4] & 15u) | (s[g - 4] >> 6u) << 4;
        const unsigned min = g < 4 ? s[g + 4] & 63u : (s[g + 4] >> 4u) | (s[g] >> 6u) << 4;
        for (unsigned i = 0; i < 32; ++i) {
            const unsigned byte = low[32 * (g / 2) + i];
            const unsigned nibble = g % 2 == 0 ? byte & 15u : byte >> 4u;
            const unsigned code = nibble | (five ? ((high[i] >> g) & 1u) << 4 : 0u);
            out.add(half(p) * scale * code, -half(p + 2) * min);
        }
    }
}

// Q6_K: two halves of 128 weights, each four rows of 32; a scale for every 16.
void block_q6_k(Bytes p, Out out) {
    const double d = half(p + 208);
    for (unsigned i = 0; i < 256; ++i) {
        const unsigned part = i / 128, row = i / 32 % 4, w = i % 32;
        const unsigned low = p[64 * part + 32 * (row % 2) + w];
        const unsigned high = p[128 + 32 * part + w] >> (2 * row);
        const unsigned code = (row < 2 ? low & 15u : low >> 4) | (high & 3u) << 4;
        const double scale = d * i8(p[192 + i / 16]);
        out.add(scale * code, -32 * scale);
    }
}

}  // namespace

double half_to_double(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 31;
    const int mantissa = bits & 1023;
    double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) value = mantissa == 0 ? INFINITY : NAN;
    return (bits & 0x8000) != 0 ? -value : value;
}

Matrix dequantize(WeightType type, std::span<const std::byte> blocks, std::size_t n_rows, std::size_t n_in) {
    Matrix m{n_rows, n_in, {}, {}};
    auto p = reinterpret_cast<Bytes>(blocks.data());
    while (m.values.size() < n_rows * n_in) {
        switch (type) {
            case WeightType::kF32: one_float(type, p, {m}), p += 4; break;
            case WeightType::kF16:
            case WeightType::kBF16: one_float(type, p, {m}), p += 2; break;
            case WeightType::kQ4_0: block_32(type, p, {m}), p += 18; break;
            case WeightType::kQ4_1: block_32(type, p, {m}), p += 20; break;
            case WeightType::kQ5_0: block_32(type, p, {m}), p += 22; break;
            case WeightType::kQ5_1: block_32(type, p, {m}), p += 24; break;
            case WeightType::kQ8_0: block_q8_0(p, {m}), p += 34; break;
            case WeightType::kQ4_K: block_k45(false, p, {m}), p += 144; break;
            case WeightType::kQ5_K: block_k45(true, p, {m}), p += 176; break;
            case WeightType::kQ6_K: block_q6_k(p, {m}), p += 210; break;
        }
    }
    return m;
}

}  // namespace winnow::reference
