// SPDX-License-Identifier: Apache-2.0
#include "runtime/weights/select_tuning.h"

#include <algorithm>

#include "runtime/vk/device.h"
#include "runtime/vk/quirks.h"

namespace winnow {

SelectTuning select_tuning(const vk::Device& device, std::uint32_t dim, bool is_box, const SelectTuning& asked) {
    if (asked.group_size != 0) return asked;
    SelectTuning t;
    // The last workgroup walks over all rows by itself: wide enough that a software driver gets through (quirks.h).
    t.group_size = device.limits().fitting_group(device.is_cpu() ? 128 : 512);
    // One lane per 8 values, a power of two; 16 only where 8 would hold too much: of a long row, or of a box, which is
    // two.
    const bool is_big_box = is_box && !device.is_cpu();
    const std::uint32_t most = std::min(device.limits().subgroup_size, dim > 128 || is_big_box ? 16u : 8u);
    // With 8 lanes and two rows at once boxes of 128 values took 127 registers, so that only one workgroup of 512 ran
    // at once and the second wave of them doubled the time (15 us, now 10; H200). Exact keys want both (45 us in place
    // of 53 over 32,768 tokens).
    if (is_big_box) t.rows_in_flight = 1;
    t.lanes = 1;
    while (t.lanes < most && t.lanes * 8 < dim) t.lanes *= 2;
    return t;
}

std::uint32_t select_splits(bool is_cpu, std::uint32_t n_kv_heads, std::uint32_t capacity) {
    const std::uint32_t splits = std::max(1u, (is_cpu ? 8 : 256) / n_kv_heads);
    return is_cpu ? std::max(splits, capacity / vk::kSoftwareTokensPerSplit) : splits;
}

}  // namespace winnow
