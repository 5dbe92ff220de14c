// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/decode/attention_pipeline.h"
#include "runtime/decode/pace.h"
#include "runtime/decode/stage_set.h"
#include "runtime/prefill/attend_prefill.h"
#include "runtime/prefill/embed_rows.h"
#include "runtime/prefill/gate_rows.h"
#include "runtime/prefill/matmul.h"
#include "runtime/prefill/norm_rows.h"
#include "runtime/prefill/rope_append.h"
#include "runtime/vk/timeline.h"
#include "runtime/weights/model_weights.h"

namespace winnow {

/// Activations of a prefill chunk.
struct PrefillBuffers {
    PrefillBuffers(vk::Device& device, const ModelShape& shape, std::uint32_t n_chunk);
    vk::Buffer tokens;       ///< u32 [n_chunk], host visible
    vk::Buffer x;            ///< f32 [n_chunk, n_embd]
    vk::Buffer halves;       ///< f16 [n_chunk, max(n_embd, q_dim, n_ff)], input of the next matmul
    vk::Buffer projections;  ///< f32 [n_chunk, n_heads + 2 n_kv_heads, head_dim]
    vk::Buffer query;        ///< f16 [n_chunk, n_heads, head_dim]
    vk::Buffer gate_up;      ///< f32 [n_chunk, 2, n_ff]
    vk::Buffer raw;          ///< f32 [n_chunk, n_embd], branch before its post norm
    vk::Buffer last;         ///< f32 [n_embd], host visible: the last token's x after all layers
    std::uint64_t bytes() const;
    static std::uint64_t bytes_needed(const ModelShape& shape, std::uint32_t n_chunk);
    /// The longest chunk whose buffers all stay within what a device binds at once.
    static std::uint32_t most_tokens(const ModelShape& shape, std::uint64_t max_buffer_bytes);
};

/// Puts a prompt into the cache in chunks, each in as many submissions of whole layers as keep a submission below a
/// tenth of a second by the time of the chunk before. Deep contexts get more submissions rather than shorter chunks:
/// attention reads all keys for 8 tokens as for 512.
class Prefill {
public:
    /// @param n_chunk tokens of the longest chunk. n_first those of the first one; 0 = the device's default. Later ones
    /// follow from the time that the one before took.
    Prefill(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
            PrefillBuffers& buffers, std::uint32_t n_chunk, std::uint32_t n_first = 0);

    /// Whose summaries and index keys each chunk refreshes; null = none.
    void set_attention(const AttentionPipeline* attention) { attention_ = attention; }

    using Progress = std::function<bool(std::uint32_t done, std::uint32_t total)>;
    /// Logits f32 [n, n_vocab] of tokens first .. first + n.
    using LogitRows = std::function<void(std::uint32_t first, std::span<const float> logits)>;

    /// `progress` is asked after each chunk and between the submissions of one. @returns tokens done: all, unless it
    /// said stop. A chunk under way is then given up, though part of the layers may have written it: see n_written().
    std::uint32_t run(std::span<const std::int32_t> tokens, std::uint32_t position, const Progress& progress,
                      const LogitRows& rows);
    /// Tokens of the last run that any layer has put into the cache: more than run() returned when a chunk was given
    /// up.
    std::uint32_t n_written() const { return n_written_; }

private:
    struct LayerStages {
        const Matmul *q = nullptr, *k = nullptr, *v = nullptr, *output = nullptr;
        const Matmul *gate = nullptr, *up = nullptr, *down = nullptr;
    };
    /// Layers first .. end of a chunk, the embedding before the first of all.
    void record_layers(vk::Recorder& recorder, std::uint32_t first, std::uint32_t end, std::uint32_t n_tokens,
                       std::uint32_t position) const;
    void record_layer(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens,
                      std::uint32_t position) const;
    bool has_rings(std::uint32_t layer) const;
    void record_branch_end(vk::Recorder& recorder, const Matmul& matmul, const std::vector<MatrixRange>& ranges,
                           const vk::BufferRange& post_norm, std::uint32_t n_tokens) const;
    void read_logits(std::uint32_t first, std::uint32_t n_tokens, const LogitRows& rows);

    vk::Device& device_;
    const ModelShape& shape_;
    const ModelWeights& weights_;
    const KvCache& cache_;
    PrefillBuffers& buffers_;
    const AttentionPipeline* attention_ = nullptr;
    std::uint32_t max_chunk_;
    Pace chunk_pace_;                   ///< tokens of a chunk
    Pace logit_pace_;                   ///< rows of logits of a submission
    std::uint32_t layers_fitting_ = 1;  ///< layers of a submission that the last chunk's time suggests
    std::uint32_t n_written_ = 0;
    StageSet<Matmul> matmuls_;
    std::vector<LayerStages> layers_;
    EmbedRows embed_;
    NormRows norm_, add_norm_;
    RopeAppend rope_append_;
    AttendPrefill attend_;
    GateRows gate_;
    const Matmul* logits_ = nullptr;
    vk::Buffer logit_rows_;  ///< made when logits are first asked for
    vk::Timeline timeline_;
};

}  // namespace winnow
