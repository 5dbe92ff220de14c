// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/matrix_layout.h"

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

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
    EXPECT_EQ(device().known_matrix_layout(), known);
    if (known) return;
    std::string text;  // what a layout has to be written for
    for (unsigned i = 0; i < found.size(); ++i)
        text += fmt::format("{}{},{}", i % 8 != 0 ? " " : "\n", found[i] / 16, found[i] % 16);
    RecordProperty("layout", text);
    std::fprintf(stderr, "layout of '%s':%s\n", device().info().name.c_str(), text.c_str());
}

// Programs that never attend should not wait for the answer, and several threads may want it (bench/tune.cpp).
TEST_F(MatrixLayoutTest, IsAskedForOnceAndNotBefore) {
    const test::ValidationLog log;
    DeviceOptions options = log.device_options();
    options.select = std::to_string(device().info().index);
    {
        const std::unique_ptr<Device> other = Device::open(options);
        EXPECT_EQ(other->n_allocations(), 0u);
        std::atomic<unsigned> n_known{0};
        {
            std::vector<std::jthread> threads;
            for (int i = 0; i < 4; ++i) threads.emplace_back([&] { n_known += other->known_matrix_layout() ? 1 : 0; });
        }
        EXPECT_EQ(n_known, device().known_matrix_layout() ? 4u : 0u);
        const std::uint64_t n_asked = other->n_allocations();
        EXPECT_EQ(n_asked > 0, other->prefers_matrices() && has_shader("matrix_layout"));
        EXPECT_EQ(other->known_matrix_layout(), n_known > 0);
        EXPECT_EQ(other->n_allocations(), n_asked);
    }
    log.expect_silent();
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
