// SPDX-License-Identifier: Apache-2.0
// Repacking and the reference's dequantisation: values survive to the bit, whoever does which rows.
#include "runtime/weights/weight_planes.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include "tests/reference/dequantize.h"
#include "tests/support/random_weights.h"
#include "winnow/error.h"

namespace winnow::test {
namespace {

// The planes of a matrix, read as shaders/common/weights.glsl describes them.
class PlaneReader {
public:
    PlaneReader(WeightType type, std::size_t n_rows, std::size_t n_in, const std::vector<std::byte>& bytes)
        : type_(type), n_blocks_(n_rows * n_in / 32), bytes_(bytes), at_(weight_planes(type, n_rows, n_in)) {}

    // Weight w of block i.
    double value(std::size_t i, std::size_t w) const {
        switch (type_) {
            case WeightType::kF32: return read<float>(16 * (w / 4 * n_blocks_ + i) + 4 * (w % 4));
            case WeightType::kF16: return half(16 * (w / 8 * n_blocks_ + i) + 2 * (w % 8));
            case WeightType::kBF16: {
                const std::uint32_t bits = read<std::uint16_t>(16 * (w / 8 * n_blocks_ + i) + 2 * (w % 8)) << 16;
                return std::bit_cast<float>(bits);
            }
            case WeightType::kQ8_0:
                return half(at_.scale + 2 * i) * read<std::int8_t>(16 * (w / 16 * n_blocks_ + i) + w % 16);
            case WeightType::kQ4_0: return half(at_.scale + 2 * i) * (nibble(i, w) - 8);
            case WeightType::kQ5_0: return half(at_.scale + 2 * i) * (nibble(i, w) + 16 * fifth(i, w) - 16);
            case WeightType::kQ4_1: return half(at_.scale + 4 * i) * nibble(i, w) + half(at_.scale + 4 * i + 2);
            case WeightType::kQ5_1:
                return half(at_.scale + 4 * i) * (nibble(i, w) + 16 * fifth(i, w)) + half(at_.scale + 4 * i + 2);
            case WeightType::kQ4_K:
            case WeightType::kQ5_K: {
                const int code = nibble(i, w) + (type_ == WeightType::kQ5_K ? 16 * fifth(i, w) : 0);
                return half(at_.super + i / 8 * 4) * read<std::uint8_t>(at_.scale + 2 * i) * code -
                       half(at_.super + i / 8 * 4 + 2) * read<std::uint8_t>(at_.scale + 2 * i + 1);
            }
            case WeightType::kQ6_K: {
                const int top = read<std::uint8_t>(at_.high + 8 * i + 4 * (w / 16) + w % 4) >> (2 * (w % 16 / 4)) & 3;
                return half(at_.super + i / 8 * 2) * read<std::int8_t>(at_.scale + 2 * i + w / 16) *
                       (nibble(i, w) + 16 * top - 32);
            }
        }
        return 0;
    }

private:
    template <typename T>
    T read(std::size_t at) const {
        T value;
        std::memcpy(&value, bytes_.data() + at, sizeof(T));
        return value;
    }
    double half(std::size_t at) const { return reference::half_to_double(read<std::uint16_t>(at)); }
    // Byte j of word k: weight 4k+j low, 16+4k+j high; so byte w % 16.
    int nibble(std::size_t i, std::size_t w) const {
        const int byte = read<std::uint8_t>(16 * i + w % 16);
        return w < 16 ? byte & 15 : byte >> 4;
    }
    // Bit k of byte j: weight 4k+j.
    int fifth(std::size_t i, std::size_t w) const {
        return read<std::uint8_t>(at_.high + 4 * i + w % 4) >> (w / 4) & 1;
    }

    WeightType type_;
    std::size_t n_blocks_;
    const std::vector<std::byte>& bytes_;
    WeightPlanes at_;
};

class WeightPlanesTest : public ::testing::TestWithParam<WeightType> {
protected:
    static std::vector<std::byte> poisoned(WeightType type, std::size_t n_rows, std::size_t n_in) {
        return std::vector<std::byte>(weight_planes(type, n_rows, n_in).total, std::byte{0xa5});
    }
};

TEST_P(WeightPlanesTest, KeepsEveryValue) {
    const WeightType type = GetParam();
    for (const std::size_t n_in :
         is_k_type(type) ? std::vector<std::size_t>{256, 768} : std::vector<std::size_t>{32, 96, 576}) {
        for (const std::size_t n_rows : {1, 3, 10}) {
            ReplicableRng rng(n_in + n_rows);
            const auto blocks = random_blocks(type, n_rows, n_in, rng, Scales::kAnyFinite);
            ASSERT_EQ(blocks.size(), n_rows * stored_row_bytes(type, n_in));
            auto planes = poisoned(type, n_rows, n_in);
            repack_rows(type, blocks, n_in, n_rows, 0, n_rows, planes);
            const PlaneReader reader(type, n_rows, n_in, planes);
            const reference::Matrix expected = reference::dequantize(type, blocks, n_rows, n_in);
            ASSERT_EQ(expected.values.size(), n_rows * n_in);
            std::size_t n_wrong = 0;
            for (std::size_t e = 0; e < n_rows * n_in; ++e) {
                const double got = reader.value(e / 32, e % 32);
                // Random bits of an F32 or BF16 never are NaN here; equality is meant to the bit but for the sign of
                // zero.
                if (got != expected.values[e] && n_wrong++ == 0)
                    ADD_FAILURE() << "row " << e / n_in << " column " << e % n_in << ": " << got << ", expected "
                                  << expected.values[e];
            }
            EXPECT_EQ(n_wrong, 0u) << n_rows << " x " << n_in;
        }
    }
}

TEST_P(WeightPlanesTest, RowsCanBeSharedOut) {
    const WeightType type = GetParam();
    const std::size_t n_rows = 13, n_in = 512;
    ReplicableRng rng(1);
    const auto blocks = random_blocks(type, n_rows, n_in, rng);
    const std::size_t row = stored_row_bytes(type, n_in);
    auto whole = poisoned(type, n_rows, n_in);
    repack_rows(type, blocks, n_in, n_rows, 0, n_rows, whole);
    for (const std::size_t n_parts : {2, 3, 5, 13}) {
        auto shared = poisoned(type, n_rows, n_in);
        std::vector<std::jthread> threads;
        for (std::size_t part = n_parts; part-- > 0;) {
            const std::size_t begin = n_rows * part / n_parts, end = n_rows * (part + 1) / n_parts;
            threads.emplace_back([&, begin, end] {
                repack_rows(type, std::span(blocks).subspan(begin * row, (end - begin) * row), n_in, n_rows, begin, end,
                            shared);
            });
        }
        threads.clear();
        EXPECT_EQ(shared, whole) << n_parts << " parts";
    }
    // What belongs to other rows is left alone.
    auto one = poisoned(type, n_rows, n_in);
    repack_rows(type, std::span(blocks).subspan(4 * row, row), n_in, n_rows, 4, 5, one);
    std::size_t n_changed = 0;
    for (std::size_t i = 0; i < one.size(); ++i) n_changed += one[i] != std::byte{0xa5} ? 1 : 0;
    const std::size_t row_repacked = repacked_row_bytes(type, n_in);
    EXPECT_LE(n_changed, row_repacked);
    EXPECT_GE(n_changed, row_repacked * 9 / 10);  // some bytes equal the poison by chance
}

TEST_P(WeightPlanesTest, WholeMatrixByAllThreads) {
    const WeightType type = GetParam();
    const std::size_t n_in = 1024;
    const std::size_t n_rows = (5u << 19) / stored_row_bytes(type, n_in) + 1;  // 2.5 MiB: two threads at least
    ReplicableRng rng(2);
    const auto blocks = random_blocks(type, n_rows, n_in, rng);
    auto expected = poisoned(type, n_rows, n_in);
    auto got = poisoned(type, n_rows, n_in);
    repack_rows(type, blocks, n_in, n_rows, 0, n_rows, expected);
    repack_matrix(type, blocks, n_in, n_rows, got);
    EXPECT_EQ(got, expected);
}

TEST_P(WeightPlanesTest, PlanesAreAlignedAndSmall) {
    const WeightType type = GetParam();
    for (const std::size_t n_rows : {1, 7, 33, 1000}) {
        const WeightPlanes p = weight_planes(type, n_rows, 256);
        for (const std::uint64_t at : {p.high, p.scale, p.super, p.total}) EXPECT_EQ(at % 16, 0u);
        EXPECT_TRUE(p.high <= p.scale && p.scale <= p.super && p.super <= p.total);
        EXPECT_LE(p.total, n_rows * repacked_row_bytes(type, 256) + 64);
        EXPECT_GE(p.total, n_rows * stored_row_bytes(type, 256));  // nothing is lost
    }
    EXPECT_THROW(weight_planes(type, 1, 48), Error);
    if (is_k_type(type)) {
        EXPECT_THROW(weight_planes(type, 1, 288), Error);
    }
}

INSTANTIATE_TEST_SUITE_P(Types, WeightPlanesTest, ::testing::ValuesIn(kAllWeightTypes),
                         [](const auto& test) { return type_name(test.param); });

// reference::dequantize against PyPI gguf's own values (make_dequant_golden.py).
TEST(DequantizeTest, AgreesWithGguf) {
    std::ifstream file(WINNOW_TEST_DATA "/golden/dequant.bin", std::ios::binary);
    const std::vector<char> data{std::istreambuf_iterator<char>(file), {}};
    ASSERT_GT(data.size(), 8u);
    ASSERT_EQ(std::memcmp(data.data(), "WDQ1", 4), 0);
    std::size_t at = 4;
    const auto u32 = [&] {
        std::uint32_t value = 0;
        std::memcpy(&value, data.data() + at, 4);
        at += 4;
        return value;
    };
    const std::uint32_t n_entries = u32();
    EXPECT_EQ(n_entries, kAllWeightTypes.size());
    for (std::uint32_t entry = 0; entry < n_entries; ++entry) {
        const auto type = static_cast<WeightType>(u32());
        const std::uint32_t n_bytes = u32(), n = u32();
        ASSERT_LE(at + n_bytes + 4 * n, data.size());
        const auto blocks = std::as_bytes(std::span(data).subspan(at, n_bytes));
        const reference::Matrix m = reference::dequantize(type, blocks, 1, n);
        at += n_bytes;
        for (std::uint32_t i = 0; i < n; ++i, at += 4) {
            float expected = 0;
            std::memcpy(&expected, data.data() + at, 4);
            // gguf rounds once, when it adds the offset.
            ASSERT_EQ(static_cast<float>(m.values[i]), expected) << type_name(type) << " weight " << i;
            ASSERT_GE(m.magnitudes[i] * (1 + 1e-15), std::abs(m.values[i]));
        }
    }
    EXPECT_EQ(at, data.size());
}

}  // namespace
}  // namespace winnow::test
