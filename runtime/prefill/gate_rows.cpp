// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/gate_rows.h"

#include <algorithm>
#include <array>

#include "runtime/vk/device.h"

namespace winnow {

GateRows::GateRows(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::array<std::uint32_t, 3> spec{32, c.n_ff / 4, static_cast<std::uint32_t>(c.activation)};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("gate_rows"), 2, sizeof(GateRowsPush), spec);
}

void GateRows::record(vk::Recorder& recorder, const Buffers& b, const GateRowsPush& push) const {
    recorder.dispatch(pipeline_, {b.gate_up, b.halves}, push, (config_.n_ff / 4 + 31) / 32, push.n_tokens);
}

std::uint64_t GateRows::bytes_moved(const Config& c, std::uint64_t n_tokens) { return n_tokens * c.n_ff * 10ull; }

}  // namespace winnow
