// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/weight_planes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "winnow/error.h"

namespace winnow {
namespace {

constexpr std::uint64_t align16(std::uint64_t bytes) { return (bytes + 15) / 16 * 16; }

struct Format {
    std::uint32_t block_weights, block_bytes;            // in the file
    std::uint32_t quant_bytes, high_bytes, scale_bytes;  // per 32 weights, repacked
    std::uint32_t super_bytes;                           // per 256 weights, repacked
};

Format format_of(WeightType type) {
    switch (type) {
        case WeightType::kF32: return {1, 4, 128, 0, 0, 0};
        case WeightType::kF16:
        case WeightType::kBF16: return {1, 2, 64, 0, 0, 0};
        case WeightType::kQ4_0: return {32, 18, 16, 0, 2, 0};
        case WeightType::kQ4_1: return {32, 20, 16, 0, 4, 0};
        case WeightType::kQ5_0: return {32, 22, 16, 4, 2, 0};
        case WeightType::kQ5_1: return {32, 24, 16, 4, 4, 0};
        case WeightType::kQ8_0: return {32, 34, 32, 0, 2, 0};
        case WeightType::kQ4_K: return {256, 144, 16, 0, 2, 4};
        case WeightType::kQ5_K: return {256, 176, 16, 4, 2, 4};
        case WeightType::kQ6_K: return {256, 210, 16, 8, 2, 2};
    }
    throw Error(ErrorCode::kInternal, "weight type without a format");
}

using Nibbles = std::array<std::uint8_t, 32>;  // one code per weight, up to 8 bits

// uvec4 word k: byte j = weight 4k+j in the low nibble, weight 16+4k+j in the high one.
void put_nibbles(std::byte* out, const Nibbles& codes) {
    for (std::size_t i = 0; i < 16; ++i) out[i] = static_cast<std::byte>((codes[i] & 15) | ((codes[16 + i] & 15) << 4));
}
// Bit k of byte j = bit 4 of weight 4k+j.
void put_fifth_bits(std::byte* out, const Nibbles& codes) {
    for (std::size_t j = 0; j < 4; ++j) {
        unsigned byte = 0;
        for (std::size_t k = 0; k < 8; ++k) byte |= static_cast<unsigned>((codes[4 * k + j] >> 4) & 1) << k;
        out[j] = static_cast<std::byte>(byte);
    }
}
// Bits 2k, 2k+1 of byte j = bits 4, 5 of weight 4k+j; the second four bytes serve weights 16-31.
void put_top_bits(std::byte* out, const Nibbles& codes) {
    for (std::size_t half = 0; half < 2; ++half) {
        for (std::size_t j = 0; j < 4; ++j) {
            unsigned byte = 0;
            for (std::size_t k = 0; k < 4; ++k)
                byte |= static_cast<unsigned>((codes[16 * half + 4 * k + j] >> 4) & 3) << (2 * k);
            out[4 * half + j] = static_cast<std::byte>(byte);
        }
    }
}

// The 6-bit scale and min of group j (0-7) of a Q4_K or Q5_K block.
void scale_min(const std::uint8_t* s, std::size_t j, std::uint8_t& scale, std::uint8_t& min) {
    if (j < 4) {
        scale = s[j] & 63;
        min = s[j + 4] & 63;
    } else {
        scale = static_cast<std::uint8_t>((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
        min = static_cast<std::uint8_t>((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
    }
}

struct Target {
    std::byte* base;
    WeightPlanes planes;
    std::uint64_t n_blocks;  // of 32, in the whole matrix
    std::byte* quants(std::uint64_t i) const { return base + 16 * i; }
    std::byte* high(std::uint64_t i, std::size_t bytes) const { return base + planes.high + bytes * i; }
    std::byte* scale(std::uint64_t i, std::size_t bytes) const { return base + planes.scale + bytes * i; }
    std::byte* super(std::uint64_t i, std::size_t bytes) const { return base + planes.super + bytes * i; }
};

// Blocks of 32 with f16 d (and m), optional high bits, nibbles.
void repack_legacy(WeightType type, const std::uint8_t* block, std::uint64_t i, const Target& to) {
    const bool has_min = type == WeightType::kQ4_1 || type == WeightType::kQ5_1;
    const bool has_high = type == WeightType::kQ5_0 || type == WeightType::kQ5_1;
    const std::size_t scale_bytes = has_min ? 4 : 2;
    std::memcpy(to.scale(i, scale_bytes), block, scale_bytes);
    block += scale_bytes;
    if (has_high) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, block, 4);
        Nibbles codes{};
        for (std::size_t w = 0; w < 32; ++w) codes[w] = static_cast<std::uint8_t>(((bits >> w) & 1) << 4);
        put_fifth_bits(to.high(i, 4), codes);
        block += 4;
    }
    std::memcpy(to.quants(i), block, 16);  // the file's nibble order is the plane's
}

void repack_q8_0(const std::uint8_t* block, std::uint64_t i, const Target& to) {
    std::memcpy(to.scale(i, 2), block, 2);
    std::memcpy(to.quants(i), block + 2, 16);
    std::memcpy(to.quants(to.n_blocks + i), block + 18, 16);
}

void repack_k45(bool five, const std::uint8_t* block, std::uint64_t i, const Target& to) {
    std::memcpy(to.super(i / 8, 4), block, 4);
    const std::uint8_t* scales = block + 4;
    const std::uint8_t* high = block + 16;
    const std::uint8_t* quants = block + (five ? 48 : 16);
    for (std::size_t group = 0; group < 8; ++group) {
        Nibbles codes{};
        const std::uint8_t* qs = quants + 32 * (group / 2);
        for (std::size_t w = 0; w < 32; ++w) {
            unsigned code = group % 2 == 0 ? qs[w] & 15u : qs[w] >> 4;
            if (five) code |= ((high[w] >> group) & 1u) << 4;
            codes[w] = static_cast<std::uint8_t>(code);
        }
        put_nibbles(to.quants(i + group), codes);
        if (five) put_fifth_bits(to.high(i + group, 4), codes);
        std::uint8_t pair[2];
        scale_min(scales, group, pair[0], pair[1]);
        std::memcpy(to.scale(i + group, 2), pair, 2);
    }
}

void repack_q6_k(const std::uint8_t* block, std::uint64_t i, const Target& to) {
    const std::uint8_t* low = block;
    const std::uint8_t* high = block + 128;
    const std::uint8_t* scales = block + 192;
    std::memcpy(to.super(i / 8, 2), block + 208, 2);
    for (std::size_t group = 0; group < 8; ++group) {
        const std::size_t part = group / 4;  // 128 weights each
        const std::size_t row = group % 4;   // 32 weights each
        Nibbles codes{};
        for (std::size_t w = 0; w < 32; ++w) {
            const std::uint8_t l = low[64 * part + 32 * (row % 2) + w];
            const unsigned nibble = row < 2 ? l & 15u : l >> 4;
            codes[w] = static_cast<std::uint8_t>(nibble | (((high[32 * part + w] >> (2 * row)) & 3u) << 4));
        }
        put_nibbles(to.quants(i + group), codes);
        put_top_bits(to.high(i + group, 8), codes);
        std::memcpy(to.scale(i + group, 2), scales + 2 * group, 2);
    }
}

}  // namespace

WeightPlanes weight_planes(WeightType type, std::uint64_t n_rows, std::uint64_t n_in) {
    const Format f = format_of(type);
    if (n_in % 32 != 0 || n_in % f.block_weights != 0)
        throw Error(ErrorCode::kInternal, "columns are no multiple of the weight block");
    const std::uint64_t n_blocks = n_rows * (n_in / 32);
    WeightPlanes p;
    p.high = n_blocks * f.quant_bytes;
    p.scale = p.high + align16(n_blocks * f.high_bytes);
    p.super = p.scale + align16(n_blocks * f.scale_bytes);
    p.total = p.super + align16((n_blocks + 7) / 8 * f.super_bytes);
    return p;
}

std::uint64_t repacked_row_bytes(WeightType type, std::uint64_t n_in) {
    const Format f = format_of(type);
    return n_in / 32 * (f.quant_bytes + f.high_bytes + f.scale_bytes) + (n_in / 32 * f.super_bytes + 7) / 8;
}

std::uint64_t stored_row_bytes(WeightType type, std::uint64_t n_in) {
    const Format f = format_of(type);
    return n_in / f.block_weights * f.block_bytes;
}

void repack_rows(WeightType type, std::span<const std::byte> rows, std::uint64_t n_in, std::uint64_t n_rows,
                 std::uint64_t row_begin, std::uint64_t row_end, std::span<std::byte> out) {
    const Format f = format_of(type);
    const std::uint64_t per_row = n_in / 32;
    const std::uint64_t in_bytes = stored_row_bytes(type, n_in);
    const Target to{out.data(), weight_planes(type, n_rows, n_in), n_rows * per_row};
    for (std::uint64_t row = row_begin; row < row_end; ++row) {
        const auto* in = reinterpret_cast<const std::uint8_t*>(rows.data()) + (row - row_begin) * in_bytes;
        for (std::uint64_t b = 0; b < per_row;) {
            const std::uint64_t i = row * per_row + b;
            switch (type) {
                case WeightType::kF32:
                case WeightType::kF16:
                case WeightType::kBF16:
                    for (std::uint64_t part = 0; part < f.quant_bytes / 16; ++part)
                        std::memcpy(to.quants(part * to.n_blocks + i), in + 16 * part, 16);
                    in += f.quant_bytes;
                    b += 1;
                    continue;
                case WeightType::kQ8_0: repack_q8_0(in, i, to); break;
                case WeightType::kQ4_K: repack_k45(false, in, i, to); break;
                case WeightType::kQ5_K: repack_k45(true, in, i, to); break;
                case WeightType::kQ6_K: repack_q6_k(in, i, to); break;
                default: repack_legacy(type, in, i, to); break;
            }
            in += f.block_bytes;
            b += f.block_weights / 32;
        }
    }
}

void repack_matrix(WeightType type, std::span<const std::byte> rows, std::uint64_t n_in, std::uint64_t n_rows,
                   std::span<std::byte> out) {
    const std::uint64_t row_size = stored_row_bytes(type, n_in);
    const std::uint64_t n_threads =
        std::clamp<std::uint64_t>(n_rows * row_size >> 20, 1, std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < n_threads; ++t) {
        const std::uint64_t begin = n_rows * t / n_threads;
        const std::uint64_t end = n_rows * (t + 1) / n_threads;
        threads.emplace_back([=] {
            repack_rows(type, rows.subspan(begin * row_size, (end - begin) * row_size), n_in, n_rows, begin, end, out);
        });
    }
}

}  // namespace winnow
