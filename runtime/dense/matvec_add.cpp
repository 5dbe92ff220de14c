// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/matvec_add.h"

#include <algorithm>
#include <array>

#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/matvec_tuning.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

MatvecAdd::Config MatvecAdd::config_for(const vk::Device& device, std::uint32_t n_in, std::uint32_t most_in,
                                        std::uint32_t n_out, WeightType type, bool post_norm,
                                        const MatvecTuning& asked) {
    most_in = std::max(n_in, most_in);
    return {n_out, most_in, type, post_norm,
            matvec_tuning(device, MatvecKind::kMatvecAdd, n_in, type, asked, shared_bytes(most_in, n_out, post_norm))};
}

std::uint64_t MatvecAdd::shared_bytes(std::uint32_t most_in, std::uint32_t n_out, bool post_norm) {
    return MatvecTuning::shared_bytes(most_in) + (post_norm ? 4ull * n_out : 0);
}

MatvecAdd::MatvecAdd(vk::Device& device, const Config& c) : rows_per_group_(c.tuning.rows_per_group) {
    const std::array<std::uint32_t, 9> spec{c.tuning.group_size,
                                            rows_per_group_,
                                            c.tuning.rows_per_pass,
                                            c.n_out / 32,
                                            static_cast<std::uint32_t>(c.type),
                                            c.post_norm ? 1u : 0u,
                                            c.tuning.blocks_in_flight,
                                            c.tuning.share_act ? 1u : 0u,
                                            c.most_in / 32};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("matvec_add", device.features()), 9, sizeof(MatvecPush),
                                    spec, device.limits().subgroup_size);
}

void MatvecAdd::record(vk::Recorder& recorder, const Buffers& b, const MatvecPush& push) const {
    recorder.dispatch(pipeline_,
                      {b.weights, b.act_in, b.state, b.x, b.next_norm, b.act_out, b.post_norm, b.raw, b.counters}, push,
                      (push.w.n_rows + rows_per_group_ - 1) / rows_per_group_);
}

std::uint64_t MatvecAdd::bytes_moved(const Config& c, std::uint32_t n_in) {
    return c.n_out * repacked_row_bytes(c.type, n_in) + activation_bytes(n_in) + activation_bytes(c.n_out) +
           c.n_out * 12ull;
}

}  // namespace winnow
