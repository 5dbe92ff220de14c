// SPDX-License-Identifier: Apache-2.0
// What a session is planned to take, against what the device has.
#include "models/session_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <utility>
#include <vector>

#include "models/model.h"
#include "runtime/decode/prefill.h"
#include "runtime/vk/device.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/tiny_file.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

class SessionPlanTest : public GpuTest {
protected:
    static std::string refusal(const ModelSource& model, const SessionOptions& options, ErrorCode code) {
        try {
            plan_session(device(), model, options);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), code) << error.what();
            return error.what();
        }
        return "";
    }
    static std::uint64_t binding_bytes() {
        return std::min(device().limits().max_storage_buffer_range, device().limits().max_allocation_bytes);
    }
};

// Other programs' memory is not there to be had.
TEST_F(SessionPlanTest, WhatFitsIsWhatIsFree) {
    SessionOptions options;
    options.n_ctx = 40960;
    TinyOptions large;
    large.n_ctx = options.n_ctx;
    large.n_embd = 32;
    large.n_heads = large.n_kv_heads = 6;
    large.head_dim = 256;
    const std::uint64_t layer_bytes = 2ull * 2 * 6 * 256 * options.n_ctx;
    const std::uint64_t n_layers = device().info().memory_bytes / layer_bytes + 2;
    if (n_layers > 1024) GTEST_SKIP() << "no small model fills this device";
    large.n_layers = static_cast<std::uint32_t>(n_layers);
    std::vector<vk::Buffer> taken;
    for (int i = 0; i < 8; ++i) taken.emplace_back(device(), "taken", 100u << 20, vk::BufferUse::kDevice);
    const std::string text = refusal(open_tiny(large), options, ErrorCode::kOutOfMemory);
    EXPECT_THAT(text, HasSubstr("(-c; for bench -p, -n and -d)"));
    const std::size_t at = text.find("' has ");
    ASSERT_NE(at, std::string::npos) << text;
    double free_mib = 0;
    ASSERT_EQ(std::sscanf(text.c_str() + at, "' has %lf MiB free", &free_mib), 1) << text;
    EXPECT_NEAR(free_mib, 0.95 * static_cast<double>(device().free_memory_bytes() >> 20), 500) << text;
    EXPECT_LT(free_mib, 0.95 * static_cast<double>((device().info().memory_bytes >> 20) - 800) + 1) << text;
}

TEST_F(SessionPlanTest, AChunkFitsOneBuffer) {
    TinyOptions wide;
    wide.n_layers = 1;
    wide.n_ff = 1u << 18;
    wide.n_ctx = 4096;
    const ModelSource model = open_tiny(wide);
    const std::uint64_t row = 8ull * wide.n_ff;
    const std::uint32_t most = PrefillBuffers::most_tokens(model.shape, binding_bytes());
    EXPECT_LE(most * row + vk::kTexelBytes, binding_bytes());
    EXPECT_GT((most + 1) * row + vk::kTexelBytes, binding_bytes());
    if (most >= 1024) GTEST_SKIP() << "this device binds more than a chunk needs";
    SessionOptions options;
    options.n_ctx = wide.n_ctx;
    EXPECT_LE(plan_session(device(), model, options).n_chunk, most);
    options.n_chunk = most;
    EXPECT_EQ(plan_session(device(), model, options).n_chunk, most);
    options.n_chunk = most + 1;
    EXPECT_THAT(refusal(model, options, ErrorCode::kInvalidArgument),
                HasSubstr("use -ub " + std::to_string(most) + " or less"));
    options.n_ctx = most;  // a chunk is never longer than the context
    EXPECT_EQ(plan_session(device(), model, options).n_chunk, most);
}

TEST_F(SessionPlanTest, MoreQueryHeadsThanSharedMemoryHoldsAreRefused) {
    TinyOptions many;
    many.n_layers = 1;
    many.n_heads = 512;
    many.n_kv_heads = 1;
    many.head_dim = 128;
    if (device().limits().max_shared_memory_bytes >= 512 * 128 * 4) GTEST_SKIP() << "this device holds them";
    EXPECT_THAT(refusal(open_tiny(many), {}, ErrorCode::kUnsupported),
                HasSubstr("512 query heads of 128 on one kv head"));
}

TEST_F(SessionPlanTest, TooLongContextsNameTheMost) {
    SessionOptions options;
    options.n_ctx = 257;
    EXPECT_THAT(refusal(open_tiny({}), options, ErrorCode::kInvalidArgument), HasSubstr("at most 256 (-c; for bench"));
}

TEST_F(SessionPlanTest, LayersThatTheModelLacksAreRefused) {
    const ModelSource model = open_tiny({});  // of two layers
    SessionOptions options;
    options.sparse.preset = "exact";
    constexpr std::uint32_t kOpen = LayerRange::kOpenEnd;
    const std::pair<LayerRange, const char*> refused[] = {{{2, 3}, "--sparse-layers 2:"},
                                                          {{1, 3}, "--sparse-layers 1-2:"},
                                                          {{0, kOpen - 1}, "--sparse-layers 0-4294967293:"},
                                                          {{2, kOpen}, "--sparse-layers 2-:"}};
    for (const auto& [range, text] : refused) {
        options.sparse.layers = {{0, 1}, range};
        EXPECT_THAT(refusal(model, options, ErrorCode::kInvalidArgument),
                    ::testing::AllOf(HasSubstr(text), HasSubstr("the model has 2 layers, 0 to 1")));
    }
    for (const std::uint32_t end : {2u, kOpen}) {
        options.sparse.layers = {{1, end}};
        const SparsePolicy policy = resolve_policy(model.shape, options.sparse, KvType::kF16);
        EXPECT_EQ(policy.layers[0].kind, LayerKind::kDense);
        EXPECT_EQ(policy.layers[1].kind, LayerKind::kSelect);
    }
}

}  // namespace
}  // namespace winnow::test
