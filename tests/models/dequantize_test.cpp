// SPDX-License-Identifier: Apache-2.0
// The reference's dequantisation on blocks worked by hand from the formats' definitions. All types against PyPI gguf's
// own values: tests/dense/weight_planes_test.cpp.
#include "tests/reference/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>

namespace winnow::test {
namespace {

using Block = std::vector<std::uint8_t>;

std::vector<double> values(WeightType type, const Block& block, std::size_t n) {
    const reference::Matrix m = reference::dequantize(type, std::as_bytes(std::span(block)), 1, n);
    EXPECT_EQ(m.values.size(), n);
    EXPECT_EQ(m.magnitudes.size(), n);
    return m.values;
}

constexpr std::uint8_t kOneLow = 0x00, kOneHigh = 0x3c;    // f16 1
constexpr std::uint8_t kHalfLow = 0x00, kHalfHigh = 0x38;  // f16 0.5
constexpr std::uint8_t kTwoLow = 0x00, kTwoHigh = 0x40;    // f16 2

TEST(Dequantize, HalfPrecision) {
    EXPECT_EQ(reference::half_to_double(0x0000), 0.0);
    EXPECT_TRUE(std::signbit(reference::half_to_double(0x8000)));
    EXPECT_EQ(reference::half_to_double(0x0001), std::ldexp(1, -24));
    EXPECT_EQ(reference::half_to_double(0x03ff), std::ldexp(1023, -24));
    EXPECT_EQ(reference::half_to_double(0x0400), std::ldexp(1, -14));
    EXPECT_EQ(reference::half_to_double(0x3555), 1365.0 / 4096);
    EXPECT_EQ(reference::half_to_double(0xc500), -5.0);
    EXPECT_EQ(reference::half_to_double(0x7bff), 65504.0);
    EXPECT_EQ(reference::half_to_double(0x7c00), INFINITY);
    EXPECT_TRUE(std::isnan(reference::half_to_double(0x7e00)));
}

TEST(Dequantize, PlainNumbers) {
    EXPECT_EQ(values(WeightType::kF32, {0, 0, 0xc0, 0x3f, 0, 0, 0, 0x80}, 2), (std::vector<double>{1.5, -0.0}));
    EXPECT_EQ(values(WeightType::kF16, {kTwoLow, kTwoHigh, 0x00, 0xb8}, 2), (std::vector<double>{2, -0.5}));
    EXPECT_EQ(values(WeightType::kBF16, {0xc0, 0x3f, 0x49, 0xc0}, 2), (std::vector<double>{1.5, -3.140625}));
}

// Byte 0 of the nibbles is weights 0 and 16, byte 15 is weights 15 and 31.
TEST(Dequantize, FourBits) {
    Block q4_0{kHalfLow, kHalfHigh};
    q4_0.resize(18, 0x88);  // code 8: zero
    q4_0[2] = 0xf0;
    q4_0[17] = 0x19;
    std::vector<double> expected(32, 0.0);
    expected[0] = -4, expected[16] = 3.5, expected[15] = 0.5, expected[31] = -3.5;
    EXPECT_EQ(values(WeightType::kQ4_0, q4_0, 32), expected);

    Block q4_1{kHalfLow, kHalfHigh, kTwoLow, kTwoHigh};
    q4_1.resize(20, 0x00);
    q4_1[4] = 0xf1;
    expected.assign(32, 2.0);
    expected[0] = 2.5, expected[16] = 9.5;
    EXPECT_EQ(values(WeightType::kQ4_1, q4_1, 32), expected);
}

// Bit j of the four bytes before the nibbles is the fifth bit of weight j.
TEST(Dequantize, FiveBits) {
    Block q5_0{kOneLow, kOneHigh, 0x01, 0x00, 0x02, 0x80};
    q5_0.resize(22, 0x00);
    q5_0[6] = 0xa3;
    std::vector<double> expected(32, -16.0);
    expected[0] = 3 + 16 - 16, expected[16] = 10 - 16, expected[17] = 0, expected[31] = 0;
    EXPECT_EQ(values(WeightType::kQ5_0, q5_0, 32), expected);

    Block q5_1{kOneLow, kOneHigh, kHalfLow, kHalfHigh, 0x00, 0x01, 0x00, 0x00};
    q5_1.resize(24, 0x00);
    q5_1[23] = 0xf0;
    expected.assign(32, 0.5);
    expected[8] = 16.5, expected[31] = 15.5;
    EXPECT_EQ(values(WeightType::kQ5_1, q5_1, 32), expected);
}

TEST(Dequantize, EightBits) {
    Block q8_0{kHalfLow, kHalfHigh};
    q8_0.resize(34, 0);
    q8_0[2] = 0x80, q8_0[3] = 0x7f, q8_0[33] = 0xff;
    std::vector<double> expected(32, 0.0);
    expected[0] = -64, expected[1] = 63.5, expected[31] = -0.5;
    EXPECT_EQ(values(WeightType::kQ8_0, q8_0, 32), expected);
}

// d = 1, dmin = 0.5; groups 0-3 take scale and min from the low six bits, groups 4-7 from nibbles and leftover top
// bits.
Block k_block(std::size_t n_bytes) {
    Block b{kOneLow, kOneHigh, kHalfLow, kHalfHigh};
    b.resize(n_bytes, 0);
    b[4] = 0x80 | 3;  // group 0: scale 3; group 4: scale bits 4-5 are 10
    b[8] = 0x40 | 4;  // group 0: min 4; group 4: min bits 4-5 are 01
    b[12] = 0x25;     // group 4: scale 0b10'0101 = 37, min 0b01'0010 = 18
    b[7] = 63;        // group 3: scale 63
    b[15] = 0xf1;     // group 7: scale 1, min 15
    return b;
}

TEST(Dequantize, Q4K) {
    Block b = k_block(144);
    b[16] = 0x2e;            // groups 0 and 1, weight 0: codes 14 and 2
    b[16 + 32 + 31] = 0xf0;  // groups 2 and 3, weight 31: codes 0 and 15
    b[16 + 64] = 0x07;       // group 4, weight 0: code 7
    b[16 + 96 + 5] = 0xb0;   // group 7, weight 5: code 11
    const std::vector<double> v = values(WeightType::kQ4_K, b, 256);
    EXPECT_EQ(v[0], 3 * 14 - 0.5 * 4);
    EXPECT_EQ(v[1], -0.5 * 4);
    EXPECT_EQ(v[32], 0.0);  // its scale is 0
    EXPECT_EQ(v[3 * 32 + 31], 63 * 15);
    EXPECT_EQ(v[4 * 32], 37 * 7 - 0.5 * 18);
    EXPECT_EQ(v[7 * 32 + 5], 1 * 11 - 0.5 * 15);
    EXPECT_EQ(v[7 * 32 + 6], -0.5 * 15);
}

TEST(Dequantize, Q5K) {
    Block b = k_block(176);
    b[16] = 0x01;      // weight 0 of group 0 has its fifth bit
    b[16 + 5] = 0x80;  // weight 5 of group 7 too
    b[48] = 0x0e;
    b[48 + 96 + 5] = 0xb0;
    const std::vector<double> v = values(WeightType::kQ5_K, b, 256);
    EXPECT_EQ(v[0], 3 * (14 + 16) - 0.5 * 4);
    EXPECT_EQ(v[5], -0.5 * 4);
    EXPECT_EQ(v[7 * 32 + 5], 1 * (11 + 16) - 0.5 * 15);
}

TEST(Dequantize, Q6K) {
    Block b(210, 0);
    b[208] = kOneLow, b[209] = kOneHigh;
    b[192] = 2;         // weights 0-15
    b[192 + 6] = 0xff;  // weights 96-111: scale -1
    b[192 + 15] = 1;    // weights 240-255
    b[0] = 0x05;        // low nibble: weight 0
    b[128] = 0x03;      // its top bits
    b[32] = 0x70;       // high nibble of row 1's byte: weight 96
    b[128] |= 0x40;     // top bits of weight 96: 01
    b[127] = 0x90;      // second half, row 3: weight 255
    b[191] = 0x80;      // its top bits: 10
    const std::vector<double> v = values(WeightType::kQ6_K, b, 256);
    EXPECT_EQ(v[0], 2 * (5 + 48 - 32));
    EXPECT_EQ(v[1], 2 * -32);
    EXPECT_EQ(v[16], 0.0);
    EXPECT_EQ(v[96], -1 * (7 + 16 - 32));
    EXPECT_EQ(v[255], 9 + 32 - 32);
    EXPECT_EQ(v[254], -32);
}

// Several rows follow each other without gaps; magnitudes tell what cancels.
TEST(Dequantize, RowsAndMagnitudes) {
    Block b;
    for (int row = 0; row < 3; ++row) {
        b.insert(b.end(), {kHalfLow, kHalfHigh});
        b.insert(b.end(), 16, static_cast<std::uint8_t>(0x11 * (8 + row)));
    }
    const reference::Matrix m = reference::dequantize(WeightType::kQ4_0, std::as_bytes(std::span(b)), 3, 32);
    EXPECT_EQ(m.n_rows, 3u);
    EXPECT_EQ(m.n_in, 32u);
    for (std::size_t i = 0; i < 96; ++i) {
        EXPECT_EQ(m.values[i], 0.5 * static_cast<double>(i / 32));
        EXPECT_EQ(m.magnitudes[i], 0.5 * static_cast<double>(8 + i / 32) + 4);
    }
}

}  // namespace
}  // namespace winnow::test
