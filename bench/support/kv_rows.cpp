// SPDX-License-Identifier: Apache-2.0
#include "bench/support/kv_rows.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "bench/support/gpu_bench.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"
#include "tests/reference/dequantize.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kDifferent = 64;  // blocks
constexpr std::uint32_t kRun = 4;         // blocks that are drawn together: fewer copies to record

std::size_t code_bytes(KvType type, std::uint32_t head_dim) { return type == KvType::kQ8_0 ? head_dim : head_dim / 2; }
float half(const std::byte* at) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, at, 2);
    return static_cast<float>(reference::half_to_double(bits));
}

// Values of either sign: halves below 1, codes times scales below 2.
std::vector<std::byte> random_blocks(KvType type, std::uint32_t head_dim, std::uint32_t seed) {
    std::mt19937 rng(seed);
    const std::size_t block_bytes = kBlock * kv_row_bytes(type, head_dim);
    std::vector<std::byte> blocks(kDifferent * block_bytes);
    const auto put = [&](std::size_t at, auto bits) { std::memcpy(blocks.data() + at, &bits, sizeof bits); };
    for (std::size_t at = 0; at < blocks.size(); at += 2) {
        const auto bits = static_cast<std::uint32_t>(rng());
        if (type == KvType::kF16) {  // exponents of 2^-4 to 2^-1
            put(at, static_cast<std::uint16_t>((bits & 0x83ff) | (0x2c00 + (bits >> 16 & 3) * 0x400)));
            continue;
        }
        const bool is_scale = at % block_bytes >= kBlock * code_bytes(type, head_dim);
        // Scales: 2^-7 to 2^-6 beside codes of 127, 2^-3 to 2^-2 beside codes of 8.
        put(at,
            static_cast<std::uint16_t>(is_scale ? (bits & 0x3ff) | (type == KvType::kQ8_0 ? 0x2000 : 0x3000) : bits));
    }
    return blocks;
}

KvConfig cache_config(const Shape& shape, std::uint32_t n_tokens, KvType type, std::uint32_t n_layers) {
    KvConfig c = kv_config(shape, n_tokens, n_layers);
    c.type = type;
    return c;
}

}  // namespace

const char* kv_type_name(KvType type) { return type == KvType::kF16 ? "f16" : type == KvType::kQ8_0 ? "q8_0" : "q4_0"; }

std::vector<float> kv_values(KvType type, std::uint32_t head_dim, std::span<const std::byte> blocks) {
    const std::size_t n_rows = blocks.size() / kv_row_bytes(type, head_dim);
    std::vector<float> values(n_rows * head_dim);
    if (type == KvType::kF16) {
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = half(blocks.data() + 2 * i);
        return values;
    }
    const std::size_t codes = code_bytes(type, head_dim), scales = (head_dim + 31) / 32 * 2;
    for (std::size_t row = 0; row < n_rows; ++row) {
        const std::byte* block = blocks.data() + row / kBlock * kBlock * (codes + scales);
        const std::byte* code = block + row % kBlock * codes;
        const std::byte* scale = block + kBlock * codes + row % kBlock * scales;
        for (std::size_t d = 0; d < head_dim; ++d) {
            const int byte = std::to_integer<int>(type == KvType::kQ8_0 ? code[d] : code[d / 8 * 4 + d % 4]);
            const int number =
                type == KvType::kQ8_0 ? static_cast<std::int8_t>(byte) : (byte >> (d % 8 < 4 ? 0 : 4) & 15) - 8;
            values[row * head_dim + d] = half(scale + d / 32 * 2) * static_cast<float>(number);
        }
    }
    return values;
}

RandomCache::RandomCache(const Shape& shape, std::uint32_t n_tokens, KvType type, std::uint32_t n_layers)
    : pools_(Bench::get().device(), cache_config(shape, n_tokens, type, n_layers)) {
    vk::Device& device = Bench::get().device();
    const std::uint64_t block_bytes = layout().block_bytes();
    const std::uint32_t n_blocks = layout().layer_blocks(0);
    std::mt19937 rng(7);
    while (drawn_.size() < n_blocks) {
        const auto first = static_cast<std::uint32_t>(rng() % (kDifferent - kRun + 1));
        for (std::uint32_t i = 0; i < kRun && drawn_.size() < n_blocks; ++i) drawn_.push_back(first + i);
    }
    for (const bool is_keys : {true, false}) {
        const std::vector<std::byte> different = random_blocks(type, shape.head_dim, is_keys ? 1 : 2);
        (is_keys ? keys_ : values_) = kv_values(type, shape.head_dim, different);
        const vk::Buffer from(device, "bench_blocks", different.size(), vk::BufferUse::kDevice);
        vk::Uploader uploader(device);
        uploader.upload(from, different);
        uploader.finish();
        const auto pool = [&](std::uint32_t layer) -> const vk::Buffer& {
            return is_keys ? pools_.keys(layer) : pools_.values(layer);
        };
        vk::run_once(device, [&](vk::Recorder& r) {
            for (std::uint32_t at = 0; at < n_blocks; at += kRun) {
                const std::uint64_t bytes = std::min(kRun, n_blocks - at) * block_bytes;
                r.copy({from, drawn_[at] * block_bytes, bytes}, {pool(0), at * block_bytes, bytes});
            }
            r.full_barrier();
            for (std::uint32_t layer = 1; layer < n_layers; ++layer) r.copy(pool(0), pool(layer));
        });
    }
}

reference::HeadView RandomCache::head(std::uint32_t kv_head) const {
    reference::HeadView view;
    const HeadLayout& head = layout().head(0, kv_head);
    view.blocks.assign(drawn_.begin() + head.first_block, drawn_.begin() + head.first_block + head.n_blocks);
    return view;
}

}  // namespace winnow::bench
