// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// out[t] (+)= W a[t] for the tokens of a chunk. shaders/prefill/matmul.comp, or matmul.coopmat.comp where the device
/// has matrix units: there weights round to f16 once.
class Matmul {
public:
    /// A tile of the cooperative variant, in matrices: parts of a subgroup, and subgroups of a group.
    struct TileShape {
        std::uint32_t token_parts = 0, row_parts = 0, token_groups = 0, row_groups = 0;
        bool operator==(const TileShape&) const = default;
    };
    struct Config {
        std::uint32_t n_in = 0;
        WeightType type = WeightType::kF32;
        bool add = false;     ///< adds to `out` instead of overwriting it
        TileShape tile = {};  ///< the only one of the cooperative variant where it is not empty (bench/tune_matmul.cpp)
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange weights;
        vk::BufferRange rows;  ///< f16 [.., n_in]
        vk::BufferRange out;   ///< f32 [n_tokens, out_stride]
    };
    /// @param n_busy groups that keep the device busy: with fewer, smaller tiles make more of them.
    Matmul(vk::Device& device, const Config& config, std::uint32_t n_busy = 120);
    void record(vk::Recorder& recorder, const Buffers& buffers, const MatmulPush& push) const;
    /// Name of the shader variant in use.
    const std::string& variant() const { return tiles_.front().pipeline.name(); }
    /// Tokens of the largest tile of the variant for texels.
    static std::uint32_t texel_tokens(const vk::Device& device);
    /// Shader variants that can do the work, the one first that serves best on the device.
    static std::vector<std::string> variants(const vk::Device& device);
    /// @param n_rows rows of the matrix.
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_rows, std::uint64_t n_tokens);

private:
    struct Tile {
        std::uint32_t n_tokens = 0, n_rows = 0;  ///< of a group
        vk::ComputePipeline pipeline;
    };
    void make_plain(vk::Device& device, const vk::ShaderVariant& shader);
    void make_texel(vk::Device& device, const vk::ShaderVariant& shader);
    void make_cooperative(vk::Device& device, const vk::ShaderVariant& shader);

    Config config_;
    std::uint32_t n_busy_;
    std::vector<Tile> tiles_;  ///< largest first
    bool rows_first_ = true;  ///< neighbouring groups share activations; those of the cooperative variant share weights
};

}  // namespace winnow
