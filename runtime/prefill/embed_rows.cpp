// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/embed_rows.h"

#include <algorithm>
#include <array>

#include "runtime/vk/device.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {

EmbedRows::EmbedRows(vk::Device& device, const Config& config) : config_(config) {
    const Config& c = config;
    const std::array<std::uint32_t, 3> spec{32, c.n_embd / 32, static_cast<std::uint32_t>(c.type)};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("embed_rows"), 3, sizeof(EmbedRowsPush), spec);
}

void EmbedRows::record(vk::Recorder& recorder, const Buffers& b, const EmbedRowsPush& push) const {
    recorder.dispatch(pipeline_, {b.table, b.tokens, b.x}, push, (config_.n_embd / 4 + 31) / 32, push.n_tokens);
}

std::uint64_t EmbedRows::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return n_tokens * (repacked_row_bytes(c.type, c.n_embd) + c.n_embd * 4ull);
}

}  // namespace winnow
