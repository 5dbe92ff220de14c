// SPDX-License-Identifier: Apache-2.0
// How the matrices of large models are cut for a device that binds less.
#include "models/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "models/random_model.h"

namespace winnow::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kLavapipe = 128u << 20;  // maxStorageBufferRange
constexpr std::uint64_t kUnlimited = ~0ull >> 1;

// 32 query and 32 kv heads of 128 in F32: Q, K and V of a layer take 192 MiB.
ModelSource outline_7b() {
    ModelSource model = random_model_outline("8b", WeightType::kF32);
    model.shape.n_kv_heads = model.shape.n_heads;
    for (LayerTensors& l : model.tensors.layers) l.attn_k = l.attn_v = l.attn_q;
    return model;
}

TEST(WeightsTest, A7bModelInF32FitsSmallBindings) {
    const ModelSource model = outline_7b();
    EXPECT_EQ(weight_bytes(model.shape, model.tensors, 4096, kLavapipe),
              weight_bytes(model.shape, model.tensors, 4096, kUnlimited));
}

// A head with its group is 6 MiB, 64 rows of gate and up are 2 MiB.
TEST(WeightsTest, WhatCannotBeCutIsRefusedByName) {
    const ModelSource model = outline_7b();
    EXPECT_NO_THROW(weight_bytes(model.shape, model.tensors, 4096, (6u << 20) + 1024));
    try {
        weight_bytes(model.shape, model.tensors, 4096, 5u << 20);
        FAIL() << "not refused";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
        EXPECT_THAT(std::string(error.what()),
                    HasSubstr("tensor 'attn_q' is too large for this device even in parts of 128 rows"));
    }
}

}  // namespace
}  // namespace winnow::test
