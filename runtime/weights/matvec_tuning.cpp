// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/matvec_tuning.h"

#include <algorithm>

#include "runtime/vk/device.h"

namespace winnow {

MatvecTuning matvec_tuning(const vk::Device& device, MatvecKind kind, std::uint32_t n_rows, std::uint32_t n_in) {
    MatvecTuning t;
    if (device.is_cpu()) {
        // A software driver runs the subgroups of a group one after another: small groups spread better over few cores.
        t = {32, kind == MatvecKind::kLogits ? 64u : 32u, 2};
    } else {
        // Whole blocks of 32 rows per group leave few groups on small matrices, so groups are wide.
        const bool small = n_rows <= 2048;
        t = {small ? 512u : 256u, 32, 1};
        if (n_in >= 2048) t.rows_per_pass = 2;
        if (kind == MatvecKind::kMatvecAdd) t.group_size = 512;
    }
    t.group_size = std::min(t.group_size, device.limits().max_workgroup_invocations);
    return t;
}

}  // namespace winnow
