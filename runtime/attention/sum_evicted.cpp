// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention/sum_evicted.h"

#include <array>

#include "runtime/kv/evicted_sums.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/vk/device.h"

namespace winnow {

SumEvicted::SumEvicted(vk::Device& device, const Config& config) : config_(config) {
    const std::array<std::uint32_t, 3> spec{32, config.head_dim, config.block_size};
    pipeline_ = vk::ComputePipeline(device, vk::find_shader(kv_shader("sum_evicted", config.kv_type)), 6,
                                    sizeof(SumEvictedPush), spec);
}

void SumEvicted::record(vk::Recorder& recorder, const Buffers& b, const SumEvictedPush& push) const {
    recorder.dispatch(pipeline_, {b.state, b.tables, b.keys, b.values, b.sums, b.counts}, push, 1, config_.n_kv_heads);
}

std::uint64_t SumEvicted::bytes_moved(const Config& c, std::uint64_t n_tokens) {
    return c.n_kv_heads * (2 * n_tokens * kv_row_bytes(c.kv_type, c.head_dim) + 2 * EvictedSums::row_bytes(c.head_dim));
}

}  // namespace winnow
