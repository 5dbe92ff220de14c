// SPDX-License-Identifier: Apache-2.0
#include "runtime/vk/shader_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "runtime/vk/spirv.h"
#include "tests/support/gpu_fixture.h"
#include "winnow/error.h"

namespace winnow::vk {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// What each SPIR-V capability asks of the device: a feature, or nothing beyond the baseline.
struct CapabilityRule {
    std::uint32_t capability;
    std::uint32_t feature_bits;
};
constexpr auto bits(Feature feature) { return static_cast<std::uint32_t>(feature); }
constexpr CapabilityRule kRules[] = {
    {0, 0},                                     // Matrix
    {1, 0},                                     // Shader
    {61, 0},                                    // GroupNonUniform
    {63, 0},                                    // GroupNonUniformArithmetic
    {64, 0},                                    // GroupNonUniformBallot
    {65, 0},                                    // GroupNonUniformShuffle
    {46, bits(Feature::kTexelLoads)},           // SampledBuffer
    {4433, 0},                                  // StorageBuffer16BitAccess
    {22, 0},                                    // Int16
    {9, bits(Feature::kFloat16)},               // Float16
    {6016, bits(Feature::kIntegerDot)},         // DotProductInputAll
    {6017, bits(Feature::kIntegerDot)},         // DotProductInput4x8Bit
    {6018, bits(Feature::kIntegerDot)},         // DotProductInput4x8BitPacked
    {6019, bits(Feature::kIntegerDot)},         // DotProduct
    {6022, bits(Feature::kCooperativeMatrix)},  // CooperativeMatrixKHR
    {5345, bits(Feature::kCooperativeMatrix)},  // VulkanMemoryModel: offered with the former
    {5346, bits(Feature::kCooperativeMatrix)},  // VulkanMemoryModelDeviceScope
};

TEST(ShaderRegistry, IsSortedAndNamesAreUnique) {
    const auto all = all_shaders();
    ASSERT_FALSE(all.empty());
    for (std::size_t i = 1; i < all.size(); ++i) EXPECT_LT(all[i - 1].name, all[i].name);
}

TEST(ShaderRegistry, HoldsModules) {
    for (const ShaderVariant& shader : all_shaders()) {
        ASSERT_GT(shader.words.size(), 5u) << shader.name;
        EXPECT_EQ(shader.words[0], 0x07230203u) << shader.name;
        EXPECT_EQ(shader.words[1], 0x00010500u) << shader.name << " is not SPIR-V 1.5";
    }
}

TEST(ShaderRegistry, DeclaresTheFeaturesThatShadersUse) {
    for (const ShaderVariant& shader : all_shaders()) {
        for (std::uint32_t capability : inspect_spirv(shader.words).capabilities) {
            const auto* rule = std::find_if(std::begin(kRules), std::end(kRules),
                                            [&](const CapabilityRule& r) { return r.capability == capability; });
            if (rule == std::end(kRules)) {
                ADD_FAILURE() << shader.name << " uses SPIR-V capability " << capability
                              << ", which the device baseline does not promise";
                continue;
            }
            const FeatureSet needed(rule->feature_bits);
            EXPECT_TRUE(shader.features.includes(needed))
                << shader.name << " uses capability " << capability << " without FEATURES "
                << to_string(shader.features.missing(needed));
        }
    }
}

TEST(ShaderRegistry, KeepsBindingsAndConstantsFew) {
    for (const ShaderVariant& shader : all_shaders()) {
        const SpirvInfo info = inspect_spirv(shader.words);
        // Push descriptors: every device that winnow runs on offers 32.
        EXPECT_LE(info.bindings.empty() ? 0 : info.bindings.back() + 1, 24u) << shader.name;
        EXPECT_LE(info.spec_ids.empty() ? 0 : info.spec_ids.back() + 1, 32u) << shader.name;
    }
}

TEST(ShaderRegistry, StaysSmall) {
    std::size_t n_bytes = 0;
    for (const ShaderVariant& shader : all_shaders()) n_bytes += shader.words.size_bytes();
    EXPECT_LT(n_bytes, std::size_t{8} << 20) << "too many variants?";
}

TEST(ShaderRegistry, FindsByName) {
    for (const ShaderVariant& shader : all_shaders()) {
        EXPECT_EQ(&find_shader(shader.name), &shader);
    }
    EXPECT_THROW(find_shader("no_such_shader"), Error);
    EXPECT_THROW(find_shader(""), Error);
}

TEST(ShaderRegistry, ChoosesTheFirstThatFits) {
    const test::ScopedEnv unset("WINNOW_FORCE_VARIANT", nullptr);
    const std::array<std::string, 2> names{"no_such_shader", "fill_index"};
    EXPECT_EQ(best_shader(names, FeatureSet()).name, "fill_index");
    try {
        best_shader(std::span(names).first(1), FeatureSet());
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
        EXPECT_THAT(error.what(), HasSubstr("no_such_shader is not in this build"));
    }
}

TEST(ShaderRegistry, ForcesAVariant) {
    const auto all = all_shaders();
    if (all.size() < 2) GTEST_SKIP() << "one shader only";
    const std::array<std::string, 2> names{std::string(all[0].name), std::string(all[1].name)};
    const FeatureSet everything(~0u);
    const std::string list = "other," + std::string(all[1].name);
    const test::ScopedEnv forced("WINNOW_FORCE_VARIANT", list.c_str());
    EXPECT_EQ(best_shader(names, everything).name, all[1].name);
    EXPECT_EQ(best_shader(std::span(names).first(1), everything).name, all[0].name);
    const std::array<std::string, 2> absent{"other", std::string(all[0].name)};
    EXPECT_THROW(best_shader(absent, everything), Error);
}

TEST(ShaderRegistry, TexelVariantsAreForDevicesThatReadTexelsFaster) {
    const test::ScopedEnv unset("WINNOW_FORCE_VARIANT", nullptr);
    FeatureSet features;
    features.add(Feature::kIntegerDot);
    EXPECT_EQ(find_shader("gate_up", features).name, "gate_up");
    features.add(Feature::kTexelLoads);
    EXPECT_EQ(find_shader("gate_up", features).name, "gate_up_texel");
    EXPECT_EQ(find_shader("embed", features).name, "embed");  // has no such variant
    const test::ScopedEnv forced("WINNOW_FORCE_VARIANT", "gate_up");
    EXPECT_EQ(find_shader("gate_up", features).name, "gate_up");
}

TEST(Spirv, ReadsTheWorkgroupSizeAfterSpecialisation) {
    const auto words = find_shader("fill_index").words;
    // glslang gives a size that local_size_x_id names the default 1, not the constant's.
    EXPECT_THAT(inspect_spirv(words).workgroup_size, ElementsAre(1u, 1u, 1u));
    const std::array spec{48u};
    EXPECT_THAT(inspect_spirv(words, spec).workgroup_size, ElementsAre(48u, 1u, 1u));
    EXPECT_THAT(inspect_spirv(words).bindings, ElementsAre(0u));
    EXPECT_THAT(inspect_spirv(words).spec_ids, ElementsAre(0u, 1u));
}

// Lengths made of constants by arithmetic, comparison and choice.
TEST(Spirv, CountsSharedBytesAfterSpecialisation) {
    EXPECT_EQ(inspect_spirv(find_shader("fill_index").words).shared_bytes, 0u);
    // A copy of the activations is five words of four to a block of 32; an array that is not used still has one word of
    // four.
    const auto matvec_add = [](std::uint32_t rows, std::uint32_t out_blocks, std::uint32_t post_norm,
                               std::uint32_t shared_blocks) {
        const std::array<std::uint32_t, 9> spec{64,           rows, 1, out_blocks, 3, post_norm, 1, shared_blocks > 0,
                                                shared_blocks};
        return inspect_spirv(find_shader("matvec_add").words, spec).shared_bytes;
    };
    EXPECT_EQ(matvec_add(32, 18, 0, 0), 4u * (32 + 32 + 32 + 1) + 16);
    EXPECT_EQ(matvec_add(64, 18, 0, 0), 4u * (64 + 64 + 64 + 1) + 16);
    EXPECT_EQ(matvec_add(32, 168, 1, 0), 4u * (32 + 168 * 32 + 1 + 1) + 16);
    EXPECT_EQ(matvec_add(32, 18, 0, 448), 4u * (32 + 32 + 32 + 1) + 16 * 5 * 448);
    const auto sampler = [](std::uint32_t size, std::uint32_t groups) {
        const std::array<std::uint32_t, 3> spec{size, size / 8, groups};
        return inspect_spirv(find_shader("sample_token").words, spec).shared_bytes;
    };
    EXPECT_EQ(sampler(512, 64) - sampler(256, 64), 4u * (2 * 256 + 2 * 32));
    EXPECT_EQ(sampler(512, 64) - sampler(512, 8), 4u * 56);
}

TEST(Spirv, TellsTexelBuffersFromStorageBuffers) {
    EXPECT_THAT(inspect_spirv(find_shader("matvec_add").words).texel_bindings, ElementsAre());
    const SpirvInfo info = inspect_spirv(find_shader("matvec_add_texel").words);
    EXPECT_THAT(info.texel_bindings, ElementsAre(0u, 1u));  // weights and activations
    EXPECT_EQ(info.bindings, inspect_spirv(find_shader("matvec_add").words).bindings);
}

TEST(Spirv, RefusesOtherWords) {
    const std::array<std::uint32_t, 6> garbage{1, 2, 3, 4, 5, 6};
    EXPECT_THROW(inspect_spirv(garbage), Error);
    const auto words = find_shader("fill_index").words;
    std::vector<std::uint32_t> cut(words.begin(), words.begin() + 5);
    EXPECT_NO_THROW(inspect_spirv(cut));
    cut.push_back(2u << 16 | 17u);  // OpCapability without its operand
    EXPECT_THROW(inspect_spirv(cut), Error);
    EXPECT_THROW(inspect_spirv({}), Error);
}

TEST(Features, AreNamed) {
    EXPECT_EQ(to_string(FeatureSet()), "none");
    FeatureSet set;
    set.add(Feature::kFloat16);
    set.add(Feature::kTimestamps);
    EXPECT_EQ(to_string(set), "float16, timestamps");
}

}  // namespace
}  // namespace winnow::vk
