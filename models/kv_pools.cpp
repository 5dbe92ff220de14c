// SPDX-License-Identifier: Apache-2.0
#include "models/kv_pools.h"

#include <algorithm>
#include <cstddef>

#include "models/random_model.h"
#include "runtime/vk/upload.h"
#include "winnow/error.h"

namespace winnow {

std::vector<std::uint16_t> read_keys(vk::Device& device, const KvCache& cache, std::uint32_t layer,
                                     std::uint32_t n_tokens, std::uint32_t n_written) {
    const KvLayout& layout = cache.layout();
    const KvConfig& config = layout.config();
    if (config.type != KvType::kF16)
        throw Error(ErrorCode::kInvalidArgument, "keys are read back from an f16 cache only");
    const std::uint32_t block = config.block_size, dim = config.head_dim;
    const auto pool = vk::read_back_as<std::uint16_t>(device, cache.keys(layer));
    std::vector<std::uint16_t> keys(std::size_t{n_tokens} * config.n_kv_heads * dim, 0);
    for (std::uint32_t h = 0; h < config.n_kv_heads; ++h) {
        const HeadLayout& head = layout.head(layer, h);
        for (std::uint32_t t = 0; t < n_tokens; ++t) {
            std::uint32_t slot = t / block;
            if (head.ring_blocks != 0 && slot >= head.sink_blocks) {
                if (slot + head.ring_blocks <= (n_written - 1) / block) continue;  // overwritten
                slot = head.sink_blocks + (slot - head.sink_blocks) % head.ring_blocks;
            }
            const std::size_t from = ((head.first_block + slot) * std::size_t{block} + t % block) * dim;
            std::copy_n(pool.begin() + from, dim, keys.begin() + (std::size_t{t} * config.n_kv_heads + h) * dim);
        }
    }
    return keys;
}

void fill_pools(vk::Device& device, const KvCache& cache) {
    // A pattern in the first pool, copied to the rest of it and to all others.
    const vk::Buffer& first = cache.keys(0);
    const std::uint64_t n_blocks = std::min<std::uint64_t>(first.bytes(), 16u << 20) / cache.layout().block_bytes();
    const std::vector<std::byte> pattern = random_kv_blocks(cache.layout(), n_blocks);
    vk::Uploader(device).upload({first, 0, pattern.size()}, pattern);
    for (std::uint32_t layer = 0; layer < cache.layout().config().n_layers; ++layer) {
        vk::run_once(device, [&](vk::Recorder& recorder) {
            for (const vk::Buffer* pool : {&cache.keys(layer), &cache.values(layer)})
                for (std::uint64_t at = pool == &first ? pattern.size() : 0; at < pool->bytes(); at += pattern.size()) {
                    const std::uint64_t bytes = std::min<std::uint64_t>(pattern.size(), pool->bytes() - at);
                    recorder.copy({first, 0, bytes}, {*pool, at, bytes});
                }
        });
    }
}

}  // namespace winnow
