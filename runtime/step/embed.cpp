// SPDX-License-Identifier: Apache-2.0
#include "runtime/step/embed.h"

#include <array>

#include "runtime/kv/step_buffers.h"
#include "runtime/vk/device.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {
namespace {
constexpr std::uint32_t kBlocksPerGroup = 4;
}

Embed::Embed(vk::Device& device, const Config& config) : config_(config) {
    const std::uint32_t n_blocks = config.n_embd / 32;
    n_groups_ = (n_blocks + kBlocksPerGroup - 1) / kBlocksPerGroup;
    const std::array<std::uint32_t, 4> spec{kBlocksPerGroup * 8, kBlocksPerGroup, n_blocks,
                                            static_cast<std::uint32_t>(config.type)};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader("embed"), 5, sizeof(EmbedPush), spec);
}

void Embed::record(vk::Recorder& recorder, const Buffers& b, const EmbedPush& push) const {
    recorder.dispatch(pipeline_, {b.table, b.state, b.x, b.norm, b.act_out}, push, n_groups_);
}

std::uint64_t Embed::bytes_moved(const Config& c) {
    return repacked_row_bytes(c.type, c.n_embd) + c.n_embd * 8ull + activation_bytes(c.n_embd);
}

}  // namespace winnow
