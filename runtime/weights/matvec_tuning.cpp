// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/matvec_tuning.h"

#include <algorithm>

#include "runtime/vk/device.h"

namespace winnow {

namespace {

// Best of a sweep (winnow_tune) over group size, rows, blocks in flight and sharing with Q4_0 at the 135M, 1B and 8B
// shapes, on an H100 and, where they share, on an H200; the times of one kind lie 2 to 6 times apart, the best few
// within 5 %. Short rows want few blocks per lane and every row a subgroup of its own; long ones more loads under way.
MatvecTuning gpu_tuning(MatvecKind kind, std::uint32_t n_in) {
    switch (kind) {
        // No blocks to quantise: small groups, of which many fit beside each other.
        case MatvecKind::kQkv:
            if (n_in < 2048) return {256, 8, 1, 1};
            return n_in < 4096 ? MatvecTuning{256, 8, 1, 2, true} : MatvecTuning{256, 16, 2, 1};
        // The output is quantised in whole blocks of 32 rows, so that small matrices have few groups: wide ones.
        case MatvecKind::kMatvecAdd:
            return n_in < 2048 ? MatvecTuning{512, 32, 2, 1} : MatvecTuning{512, 32, 2, 2, true};
        case MatvecKind::kGateUp:
            if (n_in < 1024) return {1024, 32, 1, 1};
            return n_in < 4096 ? MatvecTuning{512, 32, 2, 1, true} : MatvecTuning{512, 64, 2, 2, true};
        // Rows enough to fill the device whatever the shape.
        case MatvecKind::kLogits:
            if (n_in < 1024) return {128, 64, 4, 1, true};
            return n_in < 4096 ? MatvecTuning{128, 64, 2, 2, true} : MatvecTuning{256, 64, 2, 2, true};
    }
    return {};
}

// Lanes share the activations between rows of a pass in place of through shared memory. Where that is short, and for
// floats, a block of which fills as many registers as four to eight of codes.
MatvecTuning unshared_tuning(MatvecKind kind, std::uint32_t n_in, bool floats) {
    switch (kind) {
        case MatvecKind::kQkv: return n_in < 4096 ? MatvecTuning{256, 8, 1, 1} : MatvecTuning{256, 16, 2, 1};
        case MatvecKind::kMatvecAdd:
            if (floats) return {256, 32, 2, 1};
            return n_in < 2048 ? MatvecTuning{512, 32, 2, 1} : MatvecTuning{512, 32, 2, 2};
        case MatvecKind::kGateUp:
            if (n_in < 1024) return {1024, 32, 1, 1};
            return n_in < 4096 ? MatvecTuning{256, 32, 4, 1} : MatvecTuning{256, 64, 4, 1};
        case MatvecKind::kLogits: return n_in < 1024 ? MatvecTuning{128, 64, 2, 1} : MatvecTuning{128, 32, 4, 1};
    }
    return {};
}

}  // namespace

MatvecTuning gpu_matvec_tuning(MatvecKind kind, std::uint32_t n_in, WeightType type, std::uint64_t shared_bytes,
                               std::uint64_t most_shared_bytes) {
    const bool floats = type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16;
    // Long rows of Q8_0 are loads enough by themselves (8B, H200: 34 us, shared 36).
    const bool long_codes = kind == MatvecKind::kGateUp && type == WeightType::kQ8_0 && n_in >= 4096;
    const MatvecTuning t = gpu_tuning(kind, n_in);
    const bool unshared = floats || long_codes || (t.share_act && shared_bytes > most_shared_bytes);
    return unshared ? unshared_tuning(kind, n_in, floats) : t;
}

MatvecTuning matvec_tuning(const vk::Device& device, MatvecKind kind, std::uint32_t n_in, WeightType type,
                           const MatvecTuning& asked, std::uint64_t shared_bytes) {
    if (asked.group_size != 0) return asked;
    MatvecTuning t;
    if (device.is_cpu()) {
        // A software driver runs the subgroups of a group one after another: small groups spread better over few cores,
        // and one subgroup has nobody to wait for. Rows of a pass share the loads of the activations.
        const std::uint32_t subgroup = device.limits().subgroup_size;
        if (device.features().has(vk::Feature::kTexelLoads)) t = {subgroup, 32, std::max(32 / subgroup, 1u)};
        else t = {32, kind == MatvecKind::kLogits ? 64u : 32u, 4};
    } else {
        if (shared_bytes == 0) shared_bytes = MatvecTuning::shared_bytes(n_in);
        t = gpu_matvec_tuning(kind, n_in, type, shared_bytes, device.limits().max_shared_memory_bytes);
    }
    t.group_size = device.limits().fitting_group(t.group_size);
    return t;
}

}  // namespace winnow
