// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/attend_tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "runtime/vk/device.h"
#include "runtime/vk/shader_registry.h"
#include "winnow/error.h"

namespace winnow {

std::uint64_t attend_shared_bytes(std::uint32_t group_size, std::uint32_t n_subgroups, std::uint64_t n_group,
                                  std::uint32_t head_dim, std::uint32_t n_splits, bool matrices) {
    const std::uint64_t quads = n_group * head_dim / 4;
    const std::uint64_t parts = group_size >= 4 * quads ? 4 : group_size >= 2 * quads ? 2 : 1;
    const std::uint64_t state = matrices ? 16 * n_group : quads;  // of a subgroup, that merges at once
    return 16 * (std::max(n_subgroups * state, parts * quads) + quads) + 8 * n_group * (n_subgroups + 1) +
           4 * n_group * std::max(n_splits, n_subgroups) + 4 + (matrices ? 32 * head_dim : 0);
}

AttendTuning attend_tuning(const vk::Device& device, std::uint32_t n_group, std::uint32_t head_dim,
                           std::uint32_t n_splits, const AttendTuning& asked) {
    if (asked.group_size != 0) return asked;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    AttendTuning t;
    // A software driver runs the subgroups of a group in turn: small groups spread better over few cores.
    t.group_size = device.limits().fitting_group(device.is_cpu() ? 32 : 256);
    const auto bytes_of = [&](std::uint32_t group_size) {
        return attend_shared_bytes(group_size, group_size / subgroup, n_group, head_dim, n_splits, false);
    };
    while (t.group_size > subgroup && bytes_of(t.group_size) > device.limits().max_shared_memory_bytes)
        t.group_size /= 2;
    const std::uint64_t bytes = bytes_of(t.group_size);
    if (bytes > device.limits().max_shared_memory_bytes)
        throw Error(ErrorCode::kUnsupported, fmt::format("{} query heads of {} on one kv head need {} KiB of shared "
                                                         "memory, and '{}' has {}: choose another model, "
                                                         "or another --device",
                                                         n_group, head_dim, (bytes + 1023) >> 10, device.info().name,
                                                         device.limits().max_shared_memory_bytes >> 10));
    if (device.is_cpu()) {
        // Registers bound how many tokens are worth holding at once.
        t.tokens_in_flight = n_group * head_dim >= 1024 ? 1 : 2;
        return t;
    }
    // Best of a sweep on an H100 (winnow_tune): 16 lanes for long rows, so that four tokens under way still fit the
    // registers.
    if (head_dim >= 128 && subgroup >= 16) t.lanes = 16;
    t.tokens_in_flight = n_group * head_dim / t.lanes >= 64 ? 2 : 4;
    return t;
}

namespace {

/// By lanes.
AttendTuning stage_tuning(const vk::Device& device, const AttendStage& stage, const AttendTuning& asked) {
    AttendTuning t = attend_tuning(device, stage.n_group, stage.head_dim, stage.n_splits, asked);
    if (!stage.sparse || asked.group_size != 0 || device.is_cpu() || stage.head_dim < 128) return t;
    // There are no more workgroups than processors, so that each should bring as many invocations as its registers
    // allow: 23 us where 384 take 25, choice included (6,547 tokens, H200, 8B; 4 tokens in flight 24, one 25, 8 lanes
    // 29).
    constexpr std::uint32_t kWide = 512;
    const vk::DeviceLimits& limits = device.limits();
    if (kWide % limits.subgroup_size != 0 || kWide > limits.max_workgroup_invocations) return t;
    const std::uint64_t bytes =
        attend_shared_bytes(kWide, kWide / limits.subgroup_size, stage.n_group, stage.head_dim, stage.n_splits, false);
    if (bytes + stage.own_shared_bytes > limits.max_shared_memory_bytes) return t;
    t.group_size = kWide;
    t.tokens_in_flight = 2;
    return t;
}

/// Empty where the stage is not for matrix units.
AttendTuning matrix_tuning(vk::Device& device, const AttendStage& stage, const AttendTuning& asked) {
    const vk::DeviceLimits& limits = device.limits();
    if (stage.by_lanes || stage.kv_type == KvType::kF32 || stage.n_group > 8 || stage.head_dim % 64 != 0 ||
        stage.head_dim > 256 || (asked.group_size != 0 && !asked.matrices) || !device.known_matrix_layout())
        return {};
    AttendTuning t = asked;
    if (asked.group_size == 0) {
        // As many as registers allow; codes of 128 dimensions take fewer (87 us in place of 97; q8_0, 131,072 tokens,
        // 8 kv heads, H200).
        const bool quantised = stage.kv_type == KvType::kQ8_0 || stage.kv_type == KvType::kQ4_0;
        t.group_size = limits.fitting_group(quantised && stage.head_dim == 128 && !stage.sparse ? 384 : 256);
        t.tokens_in_flight = 16;
    }
    t.matrices = true;
    if (t.tokens_in_flight != 16 && t.tokens_in_flight != 32) return {};
    const auto bytes = [&] {
        return attend_shared_bytes(t.group_size, t.group_size / limits.subgroup_size, stage.n_group, stage.head_dim,
                                   stage.n_splits, true) +
               stage.own_shared_bytes;
    };
    while (t.group_size > limits.subgroup_size && bytes() > limits.max_shared_memory_bytes) t.group_size /= 2;
    if (t.group_size % limits.subgroup_size != 0) return {};
    return bytes() <= limits.max_shared_memory_bytes ? t : AttendTuning{};
}

std::string matrix_name(const AttendStage& stage) { return fmt::format("{}_matrix", stage.shader); }

std::vector<std::string> variant_names(const AttendStage& stage, bool by_matrices) {
    std::vector<std::string> names{fmt::format("{}_texel", stage.shader), stage.shader};
    if (by_matrices) names.insert(names.begin(), matrix_name(stage));
    return names;
}

}  // namespace

std::vector<std::string> attend_variants(vk::Device& device, const AttendStage& stage, const AttendTuning& asked) {
    return variant_names(stage, matrix_tuning(device, stage, asked).matrices);
}

AttendVariant attend_variant(vk::Device& device, const AttendStage& stage, const AttendTuning& asked) {
    const AttendTuning matrices = matrix_tuning(device, stage, asked);
    AttendVariant v;
    v.shader = &vk::best_shader(variant_names(stage, matrices.matrices), device.features());
    const bool uses_matrices = v.shader->name == matrix_name(stage);
    v.tuning = uses_matrices ? matrices : stage_tuning(device, stage, asked);
    v.tuning.matrices = uses_matrices;
    v.shared_bytes = stage.own_shared_bytes +
                     attend_shared_bytes(v.tuning.group_size, v.tuning.group_size / device.limits().subgroup_size,
                                         stage.n_group, stage.head_dim, stage.n_splits, uses_matrices);
    return v;
}

}  // namespace winnow
