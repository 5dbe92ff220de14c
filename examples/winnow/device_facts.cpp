// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/device_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "runtime/attention/attend_dense.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/prefill/attend_prefill.h"
#include "runtime/prefill/matmul.h"
#include "runtime/vk/shader_registry.h"

namespace winnow::program {
namespace {

using vk::Feature;

constexpr const char* kNoF32 = "it reads no cache of f32";

constexpr std::array kFeatures{Feature::kFloat16,           Feature::kIntegerDot,
                               Feature::kCooperativeMatrix, Feature::kSubgroupSizeControl,
                               Feature::kTimestamps,        Feature::kTexelLoads};

std::string name_of(Feature feature) {
    vk::FeatureSet one;
    one.add(feature);
    return to_string(one);
}

const vk::ShaderVariant* in_build(std::string_view name) {
    const auto all = vk::all_shaders();
    const auto found = std::find_if(all.begin(), all.end(), [name](const auto& v) { return v.name == name; });
    return found == all.end() ? nullptr : &*found;
}

std::string matrix_text(const vk::DeviceLimits& limits) {
    return fmt::format("{}x{}x{}", limits.matrix.m, limits.matrix.n, limits.matrix.k);
}

// Why a stage does not take its variant for matrix units, where nobody forced another.
std::string matrix_refusal(const vk::Device& device, std::string_view name) {
    const vk::ShaderVariant* variant = in_build(name);
    if (variant == nullptr) return "not in this build: its glslang does not know GL_KHR_cooperative_matrix";
    if (!device.features().includes(variant->features))
        return "the device lacks " + to_string(device.features().missing(variant->features));
    if (!device.prefers_matrices())
        return fmt::format("tuned for matrices of 16x16x16 in subgroups of 32, here are {} in {}",
                           matrix_text(device.limits()), device.limits().subgroup_size);
    return {};
}

// Between `matrix` and the others that the stage names, in its own order. @param unfit why `matrix` is not among them.
VariantChoice choose(const vk::Device& device, std::string stage, std::vector<std::string> names,
                     const std::string& matrix, const std::string& unfit) {
    const std::string chosen(vk::best_shader(names, device.features()).name);
    const bool fits = std::erase(names, matrix) != 0;
    const std::string plain(vk::best_shader(names, device.features()).name);
    if (chosen == matrix) return {std::move(stage), chosen, plain, "the other is faster here"};
    const std::string refusal = fits || unfit.empty() ? matrix_refusal(device, matrix) : unfit;
    return {std::move(stage), chosen, matrix, refusal.empty() ? "WINNOW_FORCE_VARIANT names the other" : refusal};
}

VariantChoice choose_prefill(const vk::Device& device, KvType kv_type, std::uint32_t head_dim) {
    AttendPrefill::Config c;
    c.head_dim = head_dim;
    c.kv_type = kv_type;
    std::string unfit;
    if (kv_type == KvType::kF32) unfit = kNoF32;
    else if (device.features().has(Feature::kCooperativeMatrix))
        unfit = fmt::format("it has no shape for heads of {}", head_dim);
    return choose(device, "attend_prefill", AttendPrefill::variants(device, c),
                  kv_shader("attend_prefill_coopmat", kv_type), unfit);
}

// Of a decode step. Attention to a part of the cache goes by the same rule, but for values that a policy skips.
VariantChoice choose_decode(vk::Device& device, KvType kv_type, const ModelShape& shape, std::uint32_t n_ctx) {
    AttendDense::Config c;
    c.n_heads = std::max(shape.n_heads, 1u);
    c.n_kv_heads = std::max(shape.n_kv_heads, 1u);
    c.head_dim = shape.head_dim;
    c.kv_type = kv_type;
    c.n_splits = AttendDense::default_splits(device, c.n_kv_heads, std::max(n_ctx, 1u), c.block_size);
    const std::string matrix = kv_shader("attend_dense", kv_type) + "_matrix";
    std::string unfit = kv_type == KvType::kF32 ? kNoF32 : matrix_refusal(device, matrix);
    if (unfit.empty() && !device.known_matrix_layout())
        unfit = "it does not know how the matrices of this device lie in a subgroup";
    if (unfit.empty())
        unfit = fmt::format("it has no shape for {} heads of {} to a kv head", c.n_heads / c.n_kv_heads, c.head_dim);
    return choose(device, "attend_dense", AttendDense::variants(device, c), matrix, unfit);
}

}  // namespace

std::vector<VariantChoice> variant_choices(vk::Device& device, KvType kv_type, const ModelShape& shape,
                                           std::uint32_t n_ctx) {
    return {choose(device, "matmul", Matmul::variants(device), "matmul_coopmat", {}),
            choose_prefill(device, kv_type, shape.head_dim), choose_decode(device, kv_type, shape, n_ctx)};
}

std::string cache_variant(KvType kv_type) { return kv_shader("", kv_type).substr(1); }

std::vector<std::string> feature_names(const vk::Device& device, bool present) {
    std::vector<std::string> names;
    for (const Feature feature : kFeatures)
        // A GPU lacks nothing where it has no use for texels.
        if (device.features().has(feature) == present && (present || feature != Feature::kTexelLoads))
            names.push_back(name_of(feature));
    return names;
}

std::string features_text(const vk::Device& device) {
    std::string text = to_string(device.features());
    if (device.features().has(Feature::kCooperativeMatrix))
        text += fmt::format(" (f16 {})", matrix_text(device.limits()));
    return text;
}

}  // namespace winnow::program
