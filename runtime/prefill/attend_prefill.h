// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Causal attention of a chunk over the cache. shaders/prefill/attend_prefill.comp, or attend_prefill.coopmat.comp for
/// f16 caches where the device has matrix units: there probabilities round to f16.
class AttendPrefill {
public:
    struct Config {
        std::uint32_t n_heads = 0, n_kv_heads = 0, head_dim = 0;
        KvType kv_type = KvType::kF16;
        std::uint32_t block_size = 64;
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange tables, keys, values;
        vk::BufferRange query;     ///< f16 [n_tokens, n_heads, head_dim], scaled
        vk::BufferRange attended;  ///< f16 [n_tokens, n_heads, head_dim]
    };
    /// @param n_busy groups that keep the device busy: with fewer, smaller tiles make more of them.
    AttendPrefill(vk::Device& device, const Config& config, std::uint32_t n_busy = 100);
    void record(vk::Recorder& recorder, const Buffers& buffers, const AttendPrefillPush& push) const;
    /// Name of the shader variant in use.
    const std::string& variant() const { return tiles_.front().pipeline.name(); }
    /// Shader variants that can do the work, the one first that serves best on the device.
    static std::vector<std::string> variants(const vk::Device& device, const Config& config);
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens, std::uint64_t n_cached);

private:
    struct Tile {
        std::uint32_t n_items = 0;  ///< (query, head) pairs of a group
        vk::ComputePipeline pipeline;
    };
    void make_plain(vk::Device& device, const vk::ShaderVariant& shader);
    void make_texel(vk::Device& device, const vk::ShaderVariant& shader);
    void make_cooperative(vk::Device& device, const vk::ShaderVariant& shader);

    Config config_;
    std::uint32_t n_busy_;
    std::vector<Tile> tiles_;  ///< largest first
};

}  // namespace winnow
