// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/matrix_layout.h"

#include <fmt/format.h>

#include <cstdio>

#include "runtime/vk/shader_registry.h"
#include "tests/support/gpu_fixture.h"

namespace winnow::vk {
namespace {

class MatrixLayoutTest : public test::GpuTest {};

TEST_F(MatrixLayoutTest, IsToldByTheDevice) {
    if (!device().prefers_matrices() || !has_shader("matrix_layout"))
        GTEST_SKIP() << "no matrices of 16 x 16 in subgroups of 32 here";
    const std::vector<std::uint32_t> found = read_matrix_layout(device());
    // Whatever the layout, a matrix of eight elements a lane is there whole.
    for (unsigned matrix = 0; matrix < 3; ++matrix) {
        if (found.at(matrix * 256) == 0xffffffffu) continue;
        std::vector<std::uint32_t> seen(256);
        for (unsigned i = 0; i < 256; ++i) {
            const std::uint32_t place = found.at(matrix * 256 + i);
            ASSERT_LT(place, 256u);
            ++seen[place];
        }
        EXPECT_EQ(seen, std::vector<std::uint32_t>(256, 1)) << "matrix " << matrix;
    }
    bool known = true;
    for (unsigned i = 0; i < found.size(); ++i) known = known && found[i] == expected_place(i / 256, i / 8 % 32, i % 8);
    EXPECT_EQ(device().limits().known_matrix_layout, known);
    if (known) return;
    std::string text;  // what a layout has to be written for
    for (unsigned i = 0; i < found.size(); ++i)
        text += fmt::format("{}{},{}", i % 8 != 0 ? " " : "\n", found[i] / 16, found[i] % 16);
    RecordProperty("layout", text);
    std::fprintf(stderr, "layout of '%s':%s\n", device().info().name.c_str(), text.c_str());
}

TEST(ExpectedPlace, NamesEveryElementOnce) {
    for (unsigned matrix = 0; matrix < 3; ++matrix) {
        std::vector<int> seen(256);
        for (unsigned i = 0; i < 256; ++i) ++seen.at(expected_place(matrix, i / 8, i % 8));
        EXPECT_EQ(seen, std::vector<int>(256, 1)) << "matrix " << matrix;
    }
}

}  // namespace
}  // namespace winnow::vk
