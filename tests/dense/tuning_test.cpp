// SPDX-License-Identifier: Apache-2.0
// Group sizes fit devices that run smaller groups than those which they were tuned on.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "runtime/dense/matvec_add.h"
#include "runtime/step/sample_token.h"
#include "runtime/vk/device.h"
#include "runtime/vk/shader_registry.h"
#include "runtime/vk/spirv.h"
#include "runtime/weights/attend_tuning.h"
#include "runtime/weights/matvec_tuning.h"
#include "runtime/weights/select_tuning.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random_weights.h"

namespace winnow::test {
namespace {

class TuningTest : public GpuTest {};

TEST_F(TuningTest, GroupsAreHalvedUntilTheyFit) {
    vk::DeviceLimits limits;
    limits.max_workgroup_invocations = limits.max_workgroup_size[0] = 1024;
    EXPECT_EQ(limits.fitting_group(512), 512u);
    limits.max_workgroup_invocations = 384;
    EXPECT_EQ(limits.fitting_group(512), 256u);
    EXPECT_EQ(limits.fitting_group(256), 256u);
    limits.max_workgroup_size[0] = 128;
    EXPECT_EQ(limits.fitting_group(512), 128u);

    DeviceOptions options;
    options.select = std::to_string(device().info().index);
    const std::uint32_t most = options.max_group_invocations = 2 * device().limits().subgroup_size;
    const auto small = vk::Device::open(options);
    ASSERT_EQ(small->limits().max_workgroup_invocations, most);
    EXPECT_LE(select_tuning(*small, 64, {}).group_size, most);
    EXPECT_LE(attend_tuning(*small, 4, 64, 8, {}).group_size, most);
    for (const MatvecKind kind : {MatvecKind::kQkv, MatvecKind::kMatvecAdd, MatvecKind::kGateUp, MatvecKind::kLogits})
        EXPECT_LE(matvec_tuning(*small, kind, 4096, WeightType::kQ4_0, {}).group_size, most);
    EXPECT_NO_THROW(SampleToken{*small});
}

// Whatever the model and the device: a matvec shares its activations where its shader's shared memory has room for
// them.
TEST_F(TuningTest, MatvecsShareTheirActivationsWhereTheyFit) {
    struct Model {
        std::uint32_t n_embd, q_dim, n_ff;
        bool post_norm;
    };
    constexpr Model kModels[] = {{576, 576, 1536, false},     {640, 1024, 2048, true},   {2048, 2048, 8192, false},
                                 {1152, 1024, 6912, true},    {2560, 2048, 10240, true}, {4096, 4096, 14336, false},
                                 {3840, 4096, 15360, true},   {5376, 4096, 21504, true}, {8192, 8192, 28672, false},
                                 {16384, 16384, 53248, false}};
    std::uint32_t n_shared = 0;
    for (const std::uint64_t most : {16384ull, 32768ull, 49152ull, 65536ull}) {
        const auto check = [&](const char* shader, const MatvecTuning& t, const std::vector<std::uint32_t>& spec) {
            EXPECT_EQ(t.rows_per_group % t.rows_per_pass, 0u);
            if (!t.share_act) return;
            ++n_shared;
            EXPECT_LE(vk::inspect_spirv(vk::find_shader(shader).words, spec).shared_bytes, most) << shader;
        };
        for (const auto& [n_embd, q_dim, n_ff, post_norm] : kModels) {
            SCOPED_TRACE(std::to_string(n_embd) + " values, " + std::to_string(most) + " bytes");
            for (const WeightType type : kAllWeightTypes) {
                const auto id = static_cast<std::uint32_t>(type);
                const auto of = [&, type = type, most = most](MatvecKind kind, std::uint32_t n_in,
                                                              std::uint64_t bytes) {
                    return gpu_matvec_tuning(kind, n_in, type, bytes, most);
                };
                const std::uint64_t bytes = MatvecTuning::shared_bytes(n_embd);
                const MatvecTuning g = of(MatvecKind::kGateUp, n_embd, bytes);
                check("gate_up", g,
                      {g.group_size, g.rows_per_group, g.rows_per_pass, n_embd / 32, n_ff / 32, id, id, 0,
                       g.blocks_in_flight, g.share_act});
                const MatvecTuning l = of(MatvecKind::kLogits, n_embd, bytes);
                check("logits", l,
                      {l.group_size, l.rows_per_group, l.rows_per_pass, n_embd / 32, id, l.blocks_in_flight,
                       l.share_act});
                const MatvecTuning q = of(MatvecKind::kQkv, n_embd, bytes);
                for (const char* shader : {"qkv_f16", "qkv_q8_0"})  // rows of a whole head, normed or quantised
                    check(shader, q, {q.group_size,
                                      256,
                                      q_dim / 256,
                                      2,
                                      256,
                                      1,
                                      1,
                                      1,
                                      256,
                                      q.rows_per_pass,
                                      n_embd / 32,
                                      id,
                                      id,
                                      id,
                                      64,
                                      64,
                                      q.blocks_in_flight,
                                      0,
                                      2,
                                      q.share_act});
                for (const std::uint32_t n_in : {q_dim, n_ff}) {
                    const std::uint32_t most_in = std::max(q_dim, n_ff);
                    const MatvecTuning m =
                        of(MatvecKind::kMatvecAdd, n_in, MatvecAdd::shared_bytes(most_in, n_embd, post_norm));
                    check("matvec_add", m,
                          {m.group_size, m.rows_per_group, m.rows_per_pass, n_embd / 32, id, post_norm,
                           m.blocks_in_flight, m.share_act, most_in / 32});
                }
            }
        }
    }
    EXPECT_GT(n_shared, 100u);
    const auto adds = [](std::uint32_t most_in, std::uint32_t n_out, bool post_norm, std::uint64_t most) {
        return gpu_matvec_tuning(MatvecKind::kMatvecAdd, 4096, WeightType::kQ4_0,
                                 MatvecAdd::shared_bytes(most_in, n_out, post_norm), most)
            .share_act;
    };
    EXPECT_TRUE(adds(14336, 4096, false, 49152));   // 8B
    EXPECT_FALSE(adds(28672, 8192, false, 49152));  // 70B
    EXPECT_FALSE(adds(14336, 4096, false, 32768));
    EXPECT_FALSE(gpu_matvec_tuning(MatvecKind::kLogits, 4096, WeightType::kF16, 0, 65536).share_act);
}

// Matrix units where they are known and do what is asked, lanes everywhere else.
TEST_F(TuningTest, AttentionIsByMatricesWhereItCanBe) {
    const auto by_matrices = [](const AttendStage& stage, const AttendTuning& asked = {}) {
        const std::vector<std::string> names = attend_variants(device(), stage, asked);  // as `winnow info` tells them
        const AttendVariant v = attend_variant(device(), stage, asked);
        EXPECT_EQ(v.tuning.matrices, v.shader->name == stage.shader + "_matrix");
        EXPECT_EQ(vk::best_shader(names, device().features()).name, v.shader->name);
        EXPECT_EQ(std::find(names.begin(), names.end(), stage.shader + "_matrix") != names.end(), v.tuning.matrices);
        EXPECT_EQ(v.tuning.group_size % device().limits().subgroup_size, 0u);
        if (asked.group_size == 0) {
            EXPECT_LE(v.shared_bytes, device().limits().max_shared_memory_bytes);
        }
        return v.tuning.matrices;
    };
    const bool can = device().known_matrix_layout();  // which takes a build that has the shaders
    EXPECT_EQ(by_matrices({"attend_dense_f16", KvType::kF16, 4, 128, 16}), can);
    EXPECT_EQ(by_matrices({"attend_dense_q8_0", KvType::kQ8_0, 8, 256, 16}), can);
    EXPECT_EQ(by_matrices({"attend_sparse_q4_0", KvType::kQ4_0, 1, 64, 16, true}), can);
    EXPECT_EQ(by_matrices({"attend_dense_f16", KvType::kF16, 4, 128, 16}, {128, 8, 32, true}), can);
    EXPECT_FALSE(by_matrices({"attend_dense_f16", KvType::kF16, 4, 128, 16}, {128, 8, 2, true}));
    EXPECT_FALSE(by_matrices({"attend_dense_f16", KvType::kF16, 4, 128, 16}, {128, 8, 2}));
    EXPECT_FALSE(by_matrices({"attend_dense_f16", KvType::kF16, 9, 64, 16}));
    EXPECT_FALSE(by_matrices({"attend_dense_f16", KvType::kF16, 4, 80, 16}));
    EXPECT_FALSE(by_matrices({"attend_dense_f32", KvType::kF32, 4, 64, 16}));
    EXPECT_FALSE(by_matrices({"attend_sparse_f16", KvType::kF16, 4, 64, 16, true, true}));
}

// The group is chosen by a sum over what the shader declares: the shader itself says the same.
TEST_F(TuningTest, SharedMemoryOfAttentionIsWhatItsShaderDeclares) {
    for (const std::uint32_t n_group : {1u, 3u, 8u})
        for (const std::uint32_t head_dim : {64u, 80u, 256u})
            for (const std::uint32_t group_size : {32u, 64u, 256u, 384u, 1024u})
                for (const std::uint32_t n_subgroups : {group_size / 8, group_size / 32})
                    for (const std::uint32_t n_splits : {1u, 128u}) {
                        // group_size, head_dim, n_group, n_kv_heads, lanes, n_subgroups, n_splits, tokens_in_flight
                        const std::array<std::uint32_t, 8> spec{group_size, head_dim,    n_group,  2,
                                                                8,          n_subgroups, n_splits, 2};
                        const auto expect_same = [&](const char* shader, bool matrices) {
                            if (!vk::has_shader(shader)) return;
                            EXPECT_EQ(
                                attend_shared_bytes(group_size, n_subgroups, n_group, head_dim, n_splits, matrices),
                                vk::inspect_spirv(vk::find_shader(shader).words, spec).shared_bytes)
                                << shader << ", " << group_size << " invocations, " << n_subgroups << " subgroups, "
                                << n_group << " heads of " << head_dim << ", " << n_splits << " splits";
                        };
                        expect_same("attend_dense_f16", false);
                        if (head_dim % 64 == 0) expect_same("attend_dense_f16_matrix", true);
                        if (head_dim % 128 == 0) expect_same("attend_dense_q4_0_matrix", true);
                    }
}

}  // namespace
}  // namespace winnow::test
