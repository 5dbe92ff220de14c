// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/vk/pipeline.h"
#include "runtime/vk/recorder.h"
#include "shaders/common/interface.h"
#include "winnow/types.h"

namespace winnow {

/// Embedding rows of a chunk. shaders/prefill/embed_rows.comp
class EmbedRows {
public:
    struct Config {
        std::uint32_t n_embd = 0;
        WeightType type = WeightType::kF32;
        bool operator==(const Config&) const = default;
    };
    struct Buffers {
        vk::BufferRange table;
        vk::BufferRange tokens;  ///< u32 [n_tokens]
        vk::BufferRange x;       ///< f32 [n_tokens, n_embd]
    };
    EmbedRows(vk::Device& device, const Config& config);
    void record(vk::Recorder& recorder, const Buffers& buffers, const EmbedRowsPush& push) const;
    static std::uint64_t bytes_moved(const Config& config, std::uint64_t n_tokens);

private:
    Config config_;
    vk::ComputePipeline pipeline_;
};

}  // namespace winnow
