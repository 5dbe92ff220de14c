// SPDX-License-Identifier: Apache-2.0
#include "runtime/dense/gate_up.h"

#include <array>

#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/matvec_tuning.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

GateUp::GateUp(vk::Device& device, const Config& c) {
    const MatvecTuning tuning = matvec_tuning(device, MatvecKind::kGateUp, c.n_embd, c.type_gate, c.tuning);
    rows_per_group_ = tuning.rows_per_group;
    const std::array<std::uint32_t, 10> spec{tuning.group_size,
                                             rows_per_group_,
                                             tuning.rows_per_pass,
                                             c.n_embd / 32,
                                             c.n_ff / 32,
                                             static_cast<std::uint32_t>(c.type_gate),
                                             static_cast<std::uint32_t>(c.type_up),
                                             static_cast<std::uint32_t>(c.activation),
                                             tuning.blocks_in_flight,
                                             tuning.share_act ? 1u : 0u};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("gate_up", device.features()), 4, sizeof(GateUpPush), spec,
                                    device.limits().subgroup_size);
}

void GateUp::record(vk::Recorder& recorder, const Buffers& b, const GateUpPush& push) const {
    recorder.dispatch(pipeline_, {b.weights, b.act_in, b.state, b.act_out}, push,
                      (push.gate.n_rows + rows_per_group_ - 1) / rows_per_group_);
}

std::uint64_t GateUp::bytes_moved(const Config& c) {
    return c.n_ff * (repacked_row_bytes(c.type_gate, c.n_embd) + repacked_row_bytes(c.type_up, c.n_embd)) +
           activation_bytes(c.n_embd) + activation_bytes(c.n_ff);
}

}  // namespace winnow
