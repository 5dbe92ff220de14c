// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefill/matmul.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/vk/device.h"
#include "runtime/weights/weight_planes.h"

namespace winnow {
namespace {

// With 16x16 matrices: 256x128, 128x128, 128x64, 64x64 and 32x64 tokens x rows; of those that fill the device the best
// in a sweep on an H200 (winnow_tune matmul). Subgroups whose part is 64 wide load less from shared memory for each
// product.
constexpr std::array<Matmul::TileShape, 5> kTileShapes{
    {{4, 4, 4, 2}, {4, 2, 2, 4}, {4, 2, 2, 2}, {2, 2, 2, 2}, {1, 2, 2, 2}}};

constexpr std::uint32_t kTexelTokens = 4;  // of a lane

std::uint32_t divide_up(std::uint32_t a, std::uint32_t b) { return (a + b - 1) / b; }

}  // namespace

Matmul::Matmul(vk::Device& device, const Config& config, std::uint32_t n_busy) : config_(config), n_busy_(n_busy) {
    const vk::ShaderVariant& shader = vk::best_shader(variants(device), device.features());
    if (shader.name == "matmul_texel") make_texel(device, shader);
    else if (shader.name == "matmul") make_plain(device, shader);
    else make_cooperative(device, shader);
}

std::vector<std::string> Matmul::variants(const vk::Device& device) {
    if (device.prefers_matrices()) return {"matmul_texel", "matmul_coopmat", "matmul"};
    return {"matmul_texel", "matmul", "matmul_coopmat"};
}

std::uint32_t Matmul::texel_tokens(const vk::Device& device) { return kTexelTokens * device.limits().subgroup_size; }

void Matmul::make_plain(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    const std::uint32_t subgroups = device.is_cpu() ? 1 : 2;
    // Software drivers: 8 tokens x 4 rows keep the inner loop in registers and the compile short.
    const std::uint32_t tokens = 8;
    const std::uint32_t rows = device.is_cpu() ? 4 : 2;
    const std::array<std::uint32_t, 7> spec{
        subgroup * subgroups, subgroup, tokens, rows, c.n_in / 32, static_cast<std::uint32_t>(c.type), c.add ? 1u : 0u};
    tiles_.push_back({tokens, subgroup * rows * subgroups,
                      vk::ComputePipeline(device, shader, 3, sizeof(MatmulPush), spec, subgroup)});
}

void Matmul::make_texel(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    constexpr std::uint32_t kRows = 8;
    for (const std::uint32_t tokens : {kTexelTokens, 1u}) {  // a short prompt fills few
        const std::array<std::uint32_t, 7> spec{
            subgroup, subgroup, tokens, kRows, c.n_in / 32, static_cast<std::uint32_t>(c.type), c.add ? 1u : 0u};
        tiles_.push_back(
            {tokens * subgroup, kRows, vk::ComputePipeline(device, shader, 3, sizeof(MatmulPush), spec, subgroup)});
    }
}

void Matmul::make_cooperative(vk::Device& device, const vk::ShaderVariant& shader) {
    const Config& c = config_;
    rows_first_ = false;
    const vk::MatrixShape& m = device.limits().matrix;
    const std::uint32_t subgroup = device.limits().subgroup_size;
    for (const TileShape& shape : kTileShapes) {
        const TileShape& t = c.tile.token_parts != 0 ? c.tile : shape;
        const std::uint32_t n_tokens = t.token_parts * t.token_groups * m.m, n_rows = t.row_parts * t.row_groups * m.n;
        // 40 halves of shared memory for each token and row; two stages where they fit, at one barrier less a step.
        const std::uint32_t stages = 2 * 80 * (n_tokens + n_rows) <= device.limits().max_shared_memory_bytes ? 2 : 1;
        const std::array<std::uint32_t, 13> spec{t.token_groups * t.row_groups * subgroup,
                                                 subgroup,
                                                 m.m,
                                                 m.n,
                                                 m.k,
                                                 t.token_parts,
                                                 t.row_parts,
                                                 t.token_groups,
                                                 t.row_groups,
                                                 stages,
                                                 c.n_in / 32,
                                                 static_cast<std::uint32_t>(c.type),
                                                 c.add ? 1u : 0u};
        tiles_.push_back(
            {n_tokens, n_rows, vk::ComputePipeline(device, shader, 3, sizeof(MatmulPush), spec, subgroup)});
        if (&t == &c.tile) return;
    }
}

void Matmul::record(vk::Recorder& recorder, const Buffers& b, const MatmulPush& push) const {
    const auto groups = [&](const Tile& t) {
        return divide_up(push.n_tokens, t.n_tokens) * divide_up(push.w.n_rows, t.n_rows);
    };
    // The largest tile that fills the device, or else the one that makes most groups; never one with half its tokens
    // idle.
    std::size_t i = 0;
    while (i + 1 < tiles_.size() && (groups(tiles_[i]) < n_busy_ || push.n_tokens * 2 <= tiles_[i].n_tokens)) ++i;
    const Tile& t = tiles_[i];
    const std::uint32_t n_token_tiles = divide_up(push.n_tokens, t.n_tokens),
                        n_row_tiles = divide_up(push.w.n_rows, t.n_rows);
    recorder.dispatch(t.pipeline, {b.weights, b.rows, b.out}, push, rows_first_ ? n_row_tiles : n_token_tiles,
                      rows_first_ ? n_token_tiles : n_row_tiles);
}

std::uint64_t Matmul::bytes_moved(const Config& c, std::uint64_t n_rows, std::uint64_t n_tokens) {
    return n_rows * repacked_row_bytes(c.type, c.n_in) + n_tokens * (c.n_in * 2ull + n_rows * (c.add ? 8ull : 4ull));
}

}  // namespace winnow
