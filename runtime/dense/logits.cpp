// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/logits.h"

#include <array>

#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/matvec_tuning.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

Logits::Logits(vk::Device& device, const Config& c) {
    const MatvecTuning tuning = matvec_tuning(device, MatvecKind::kLogits, c.n_embd, c.type, c.tuning);
    rows_per_group_ = tuning.rows_per_group;
    n_maxima_ = (c.n_vocab + rows_per_group_ - 1) / rows_per_group_;
    const std::array<std::uint32_t, 7> spec{tuning.group_size,
                                            rows_per_group_,
                                            tuning.rows_per_pass,
                                            c.n_embd / 32,
                                            static_cast<std::uint32_t>(c.type),
                                            tuning.blocks_in_flight,
                                            tuning.share_act ? 1u : 0u};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("logits", device.features()), 5, sizeof(MatvecPush), spec,
                                    device.limits().subgroup_size);
}

void Logits::record(vk::Recorder& recorder, const Buffers& b, const MatvecPush& push) const {
    recorder.dispatch(pipeline_, {b.weights, b.act_in, b.state, b.logits, b.maxima}, push,
                      (push.w.n_rows + rows_per_group_ - 1) / rows_per_group_);
}

std::uint64_t Logits::bytes_moved(const Config& c) {
    return c.n_vocab * (repacked_row_bytes(c.type, c.n_embd) + 4) + activation_bytes(c.n_embd);
}

}  // namespace winnow
