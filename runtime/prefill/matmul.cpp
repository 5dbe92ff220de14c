// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/matmul.h"

#include <algorithm>
#include <array>

#include "runtime/vk/device.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

Matmul::Matmul(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::uint32_t subgroups = device.is_cpu() ? 1 : 2;
    // Software drivers: 8 tokens x 4 rows keep the inner loop in registers and the compile short.
    tokens_ = 8;
    const std::uint32_t rows = device.is_cpu() ? 4 : 2;
    rows_per_group_ = subgroup * rows * subgroups;
    const std::array<std::uint32_t, 7> spec{subgroup * subgroups, subgroup, tokens_, rows, c.n_in / 32,
                                            static_cast<std::uint32_t>(c.type), c.add ? 1u : 0u};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("matmul"), 3, sizeof(MatmulPush), spec, device.limits().subgroup_size);
}

void Matmul::record(vk::Recorder& recorder, const Buffers& b, const MatmulPush& push) const {
    recorder.dispatch(pipeline_, {b.weights, b.rows, b.out}, push,
                      (push.w.n_rows + rows_per_group_ - 1) / rows_per_group_, (push.n_tokens + tokens_ - 1) / tokens_);
}

std::uint64_t Matmul::bytes_moved(const Config& c, std::uint64_t n_rows, std::uint64_t n_tokens) {
    return n_rows * repacked_row_bytes(c.type, c.n_in) + n_tokens * (c.n_in * 2ull + n_rows * (c.add ? 8ull : 4ull));
}

}  // namespace winnow
