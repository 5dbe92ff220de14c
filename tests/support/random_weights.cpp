// SPDX-License-Identifier: Apache-2.0
#include "tests/support/random_weights.h"

#include <bit>

namespace winnow::test {
namespace {

struct Format {
    const char* name;
    std::size_t n_weights, n_bytes;
    std::vector<std::size_t> halves;  // where a block keeps its f16 scales
    // Exponent fields that make weights of about 0.1, of the first (d) and the second (m, dmin).
    unsigned d_exponent, m_exponent;
};

Format format_of(WeightType type) {
    switch (type) {
        case WeightType::kF32: return {"F32", 1, 4, {}, 0, 0};
        case WeightType::kF16: return {"F16", 1, 2, {0}, 11, 0};
        case WeightType::kBF16: return {"BF16", 1, 2, {}, 0, 0};
        case WeightType::kQ4_0: return {"Q4_0", 32, 18, {0}, 9, 0};
        case WeightType::kQ4_1: return {"Q4_1", 32, 20, {0, 2}, 9, 12};
        case WeightType::kQ5_0: return {"Q5_0", 32, 22, {0}, 8, 0};
        case WeightType::kQ5_1: return {"Q5_1", 32, 24, {0, 2}, 8, 12};
        case WeightType::kQ8_0: return {"Q8_0", 32, 34, {0}, 5, 0};
        case WeightType::kQ4_K: return {"Q4_K", 256, 144, {0, 2}, 3, 6};
        case WeightType::kQ5_K: return {"Q5_K", 256, 176, {0, 2}, 2, 6};
        case WeightType::kQ6_K: return {"Q6_K", 256, 210, {208}, 1, 0};
    }
    return {};
}

}  // namespace

std::string type_name(WeightType type) { return format_of(type).name; }
bool is_k_type(WeightType type) { return format_of(type).n_weights == 256; }

std::vector<std::byte> random_blocks(WeightType type, std::size_t n_rows, std::size_t n_in, ReplicableRng& rng,
                                     Scales scales) {
    const Format f = format_of(type);
    std::vector<std::byte> bytes(n_rows * n_in / f.n_weights * f.n_bytes);
    const auto put16 = [&](std::size_t at, unsigned bits) {
        bytes[at] = static_cast<std::byte>(bits & 255u);
        bytes[at + 1] = static_cast<std::byte>(bits >> 8);
    };
    const auto half_bits = [&](unsigned exponent) {  // of two octaves from `exponent` on, or any
        const auto field =
            static_cast<unsigned>(scales == Scales::kAnyFinite ? rng.integer(0, 30) : exponent + rng.integer(0, 1));
        return static_cast<unsigned>(rng.integer(0, 1)) << 15 | field << 10 |
               static_cast<unsigned>(rng.integer(0, scales == Scales::kAnyFinite && field == 0 ? 2 : 1023));
    };
    for (std::size_t at = 0; at < bytes.size(); at += f.n_bytes) {
        for (std::size_t i = 0; i < f.n_bytes; ++i) bytes[at + i] = static_cast<std::byte>(rng.bits() & 255u);
        for (std::size_t i = 0; i < f.halves.size(); ++i)
            put16(at + f.halves[i], half_bits(i == 0 ? f.d_exponent : f.m_exponent));
        if (type == WeightType::kF32 || type == WeightType::kBF16) {
            const auto bits = std::bit_cast<std::uint32_t>(rng.normal(0, 0.1f));
            put16(at, type == WeightType::kF32 ? bits & 0xffffu : bits >> 16);
            if (type == WeightType::kF32) put16(at + 2, bits >> 16);
        }
    }
    return bytes;
}

}  // namespace winnow::test
