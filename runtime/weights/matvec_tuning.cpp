// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/matvec_tuning.h"

#include <algorithm>

#include "runtime/vk/device.h"

namespace winnow {

MatvecTuning matvec_tuning(const vk::Device& device, MatvecKind kind, std::uint32_t n_in, WeightType type,
                           const MatvecTuning& asked) {
    if (asked.group_size != 0) return asked;
    MatvecTuning t;
    if (device.is_cpu()) {
        // A software driver runs the subgroups of a group one after another: small groups spread better over few cores,
        // and one subgroup has nobody to wait for. Rows of a pass share the loads of the activations.
        const std::uint32_t subgroup = device.limits().subgroup_size;
        if (device.features().has(vk::Feature::kTexelLoads)) t = {subgroup, 32, std::max(32 / subgroup, 1u)};
        else t = {32, kind == MatvecKind::kLogits ? 64u : 32u, 4};
    } else {
        // Best of a sweep (winnow_tune) over group size, rows and blocks in flight with Q4_0 on an H100 at the 135M, 1B
        // and 8B shapes; the times of one kind lie 2 to 6 times apart, the best few within 5 %. Short rows want few
        // blocks per lane and every row a subgroup of its own; long ones more loads under way and lanes that share the
        // activations between rows.
        switch (kind) {
            // No blocks to quantise: small groups, of which many fit beside each other.
            case MatvecKind::kQkv: t = n_in < 4096 ? MatvecTuning{256, 8, 1, 1} : MatvecTuning{256, 16, 2, 1}; break;
            // The output is quantised in whole blocks of 32 rows, so that small matrices have few groups: wide ones.
            case MatvecKind::kMatvecAdd:
                t = n_in < 2048 ? MatvecTuning{512, 32, 2, 1} : MatvecTuning{512, 32, 2, 2};
                // A block of floats fills as many registers as four to eight of codes.
                if (type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16)
                    t = {256, 32, 2, 1};
                break;
            case MatvecKind::kGateUp:
                t = n_in < 1024 ? MatvecTuning{1024, 32, 1, 1}
                                : (n_in < 4096 ? MatvecTuning{256, 32, 4, 1} : MatvecTuning{256, 64, 4, 1});
                break;
            // Rows enough to fill the device whatever the shape; short ones share the loads of the activations.
            case MatvecKind::kLogits:
                t = n_in < 1024 ? MatvecTuning{128, 64, 2, 1} : MatvecTuning{128, 32, 4, 1};
                break;
        }
    }
    t.group_size = device.limits().fitting_group(t.group_size);
    return t;
}

}  // namespace winnow
