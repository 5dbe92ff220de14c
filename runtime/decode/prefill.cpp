// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/prefill.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "runtime/decode/finite.h"
#include "runtime/vk/device.h"

namespace winnow {
namespace {

WeightType type_of(const MatrixRef& ref) { return static_cast<WeightType>(ref.type); }

RopeAppend::Config rope_config(const ModelShape& s, const KvConfig& kv) {
    RopeAppend::Config c;
    c.n_heads = s.n_heads;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = s.head_dim;
    c.n_rot = s.n_rot;
    c.pairing = s.rope_pairing;
    c.qk_norm = s.qk_norm;
    c.bias = s.qkv_bias;
    c.kv_type = kv.type;
    c.block_size = kv.block_size;
    return c;
}

std::uint64_t widest(const ModelShape& s) { return std::max({s.n_embd, s.q_dim(), s.n_ff}); }
constexpr std::uint32_t kLogitTokens = 32;  // most rows of logits computed and read back at a time
constexpr double kSubmissionSeconds = 0.1;  // longer ones make a display stutter

// Tokens for which a weight is loaded and unpacked once: fewer in a piece take almost as long as all of them. On a
// software driver a piece that the time allows less than that would never grow again.
std::uint32_t tile_tokens(const vk::Device& device) {
    if (device.features().has(vk::Feature::kTexelLoads)) return Matmul::texel_tokens(device);
    return device.is_cpu() ? 8 : 128;
}

// Waits for what is queued before its recordings go, however the block is left.
struct Drain {
    const vk::Timeline& timeline;
    ~Drain() {
        try {
            timeline.wait(timeline.last_submitted());
        } catch (const Error&) {  // a lost device has nothing left to wait for
        }
    }
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

PrefillBuffers::PrefillBuffers(vk::Device& device, const ModelShape& s, std::uint32_t n) {
    using vk::BufferUse;
    tokens = vk::Buffer(device, "prefill_tokens", n * 4ull, BufferUse::kShared);
    x = vk::Buffer(device, "prefill_x", n * 4ull * s.n_embd, BufferUse::kDevice);
    halves = vk::Buffer(device, "prefill_halves", n * 2ull * widest(s), BufferUse::kDevice);
    projections = vk::Buffer(device, "prefill_qkv", n * 4ull * (s.q_dim() + 2 * s.kv_dim()), BufferUse::kDevice);
    query = vk::Buffer(device, "prefill_query", n * 2ull * s.q_dim(), BufferUse::kDevice);
    gate_up = vk::Buffer(device, "prefill_gate_up", n * 8ull * s.n_ff, BufferUse::kDevice);
    raw = vk::Buffer(device, "prefill_raw", s.post_norms ? n * 4ull * s.n_embd : 16, BufferUse::kDevice);
    last = vk::Buffer(device, "prefill_last", 4ull * s.n_embd, BufferUse::kReadback);
}

std::uint64_t PrefillBuffers::bytes() const {
    std::uint64_t sum = 0;
    for (const vk::Buffer* b : {&tokens, &x, &halves, &projections, &query, &gate_up, &raw, &last}) sum += b->bytes();
    return sum;
}

std::uint64_t PrefillBuffers::bytes_needed(const ModelShape& s, std::uint32_t n) {
    return n * (4ull + 4ull * s.n_embd + 2 * widest(s) + 4ull * (s.q_dim() + 2 * s.kv_dim()) + 2ull * s.q_dim() +
                8ull * s.n_ff + (s.post_norms ? 4ull * s.n_embd : 0)) +
           (s.post_norms ? 0 : 16) + 4ull * s.n_embd;
}

std::uint32_t PrefillBuffers::most_tokens(const ModelShape& s, std::uint64_t max_buffer_bytes) {
    const std::uint64_t row =
        std::max<std::uint64_t>({4ull * s.n_embd, 2 * widest(s), 4ull * (s.q_dim() + 2 * s.kv_dim()), 8ull * s.n_ff});
    const std::uint64_t n = (max_buffer_bytes - std::min<std::uint64_t>(max_buffer_bytes, vk::kTexelBytes)) / row;
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(n, 1, 0xffffffffu));
}

Prefill::Prefill(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
                 PrefillBuffers& buffers, std::uint32_t n_chunk, std::uint32_t n_first)
    : device_(device),
      shape_(shape),
      weights_(weights),
      cache_(cache),
      buffers_(buffers),
      max_chunk_(n_chunk),
      // After so long the user sees progress.
      chunk_pace_(device.is_cpu() ? 0.5 : 1.0,
                  n_first != 0      ? n_first
                  : device.is_cpu() ? 32
                                    : n_chunk,
                  8, n_chunk),
      logit_pace_(kSubmissionSeconds, 8, device.is_cpu() ? kLogitTokens : 1, kLogitTokens),
      embed_(device, {shape.n_embd, type_of(weights.table.front().ref)}),
      norm_(device, {shape.n_embd, false}),
      add_norm_(device, {shape.n_embd, true}),
      rope_append_(device, rope_config(shape, cache.layout().config())),
      attend_(device, {shape.n_heads, shape.n_kv_heads, shape.head_dim, cache.layout().config().type,
                       cache.layout().config().block_size}),
      gate_(device, {shape.n_ff, shape.activation}),
      timeline_(device) {
    const auto matmul = [&](std::uint32_t n_in, const MatrixRef& ref, bool add) {
        return &matmuls_.get(device, {n_in, type_of(ref), add});
    };
    const bool add = !shape.post_norms;  // otherwise the branch is normed before the sum
    for (const LayerWeights& w : weights.layers) {
        LayerStages s;
        s.q = matmul(shape.n_embd, w.qkv.front().q, false);
        s.k = matmul(shape.n_embd, w.qkv.front().k, false);
        s.v = matmul(shape.n_embd, w.qkv.front().v, false);
        s.output = matmul(shape.q_dim(), w.output.front().ref, add);
        s.gate = matmul(shape.n_embd, w.gate_up.front().gate, false);
        s.up = matmul(shape.n_embd, w.gate_up.front().up, false);
        s.down = matmul(shape.n_ff, w.down.front().ref, add);
        layers_.push_back(s);
    }
}

std::uint32_t Prefill::run(std::span<const std::int32_t> tokens, std::uint32_t position, const Progress& progress,
                           const LogitRows& rows) {
    const auto total = static_cast<std::uint32_t>(tokens.size());
    std::uint32_t done = 0;
    std::array<vk::Recorder, 2> recorders{vk::Recorder(device_, "prefill"), vk::Recorder(device_, "prefill")};
    std::array<vk::Ticket, 2> tickets{};
    const Drain drain{timeline_};
    std::size_t turn = 0;
    n_written_ = 0;
    const std::uint32_t least = std::min(tile_tokens(device_), max_chunk_);
    const std::uint32_t whole = device_.is_cpu() ? least : 8;
    while (done < total) {
        std::uint32_t n = static_cast<std::uint32_t>(chunk_pace_.fitting()) / whole * whole;
        n = std::min({std::max(n, least), max_chunk_, total - done});
        std::memcpy(buffers_.tokens.mapped(), tokens.data() + done, n * sizeof(std::int32_t));
        const auto begin = std::chrono::steady_clock::now();
        n_written_ = done + n;
        for (std::uint32_t layer = 0; layer < shape_.n_layers;) {
            if (layer > 0 && progress && !progress(done, total)) return done;
            const std::uint32_t end = std::min(shape_.n_layers, layer + layers_fitting_);
            vk::Recorder& recorder = recorders[turn];
            timeline_.wait(tickets[turn]);  // the other one runs meanwhile
            recorder.begin();
            record_layers(recorder, layer, end, n, position + done);
            recorder.end();
            tickets[turn] = timeline_.submit(recorder);
            turn ^= 1;
            layer = end;
        }
        timeline_.wait(timeline_.last_submitted());
        const double seconds = seconds_since(begin);
        // The last token has seen all others. Decoding would not notice: its integer activations know no NaN.
        check_finite({buffers_.last.mapped_as<const float>(), shape_.n_embd});
        chunk_pace_.note(n, seconds);
        const double layer_seconds = seconds / shape_.n_layers * std::max(1.0, chunk_pace_.fitting() / n);
        layers_fitting_ = static_cast<std::uint32_t>(
            std::clamp(kSubmissionSeconds / std::max(layer_seconds, 1e-9), 1.0, static_cast<double>(shape_.n_layers)));
        if (rows) read_logits(done, n, rows);
        done += n;
        if (progress && !progress(done, total)) break;
    }
    return done;
}

void Prefill::record_layers(vk::Recorder& recorder, std::uint32_t first, std::uint32_t end, std::uint32_t n_tokens,
                            std::uint32_t position) const {
    recorder.full_barrier();
    if (first == 0) {
        for (const MatrixRange& range : weights_.table)
            embed_.record(recorder, {range.where, buffers_.tokens, buffers_.x},
                          {range.ref, range.first_row, n_tokens, shape_.embedding_scale});
        recorder.barrier();
    }
    for (std::uint32_t layer = first; layer < end; ++layer) record_layer(recorder, layer, n_tokens, position);
    recorder.full_barrier();
    if (end == shape_.n_layers) {
        const std::uint64_t row = 4ull * shape_.n_embd;
        recorder.copy({buffers_.x, (n_tokens - 1) * row, row}, buffers_.last);
        recorder.full_barrier();
    }
}

bool Prefill::has_rings(std::uint32_t layer) const {
    for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h)
        if (cache_.layout().head(layer, h).ring_blocks != 0) return true;
    return false;
}

void Prefill::record_layer(vk::Recorder& recorder, std::uint32_t layer, std::uint32_t n_tokens,
                           std::uint32_t position) const {
    const LayerWeights& w = weights_.layers[layer];
    const LayerStages& stages = layers_[layer];
    const PrefillBuffers& b = buffers_;
    const KvLayout& layout = cache_.layout();
    const std::uint32_t q_dim = shape_.q_dim();
    const std::uint32_t kv_dim = shape_.kv_dim();
    const std::uint32_t qkv_dim = q_dim + 2 * kv_dim;

    norm_.record(recorder, {b.x, w.attn_norm, b.halves, b.x}, {n_tokens, shape_.rms_eps});
    recorder.barrier();
    for (const QkvRange& range : w.qkv) {
        const Matmul::Buffers buffers{range.where, b.halves, b.projections};
        const std::uint32_t q_row = range.first_kv_head * shape_.n_group() * shape_.head_dim;
        const std::uint32_t kv_row = range.first_kv_head * shape_.head_dim;
        stages.q->record(recorder, buffers, {range.q, q_row, n_tokens, qkv_dim, 0});
        stages.k->record(recorder, buffers, {range.k, q_dim + kv_row, n_tokens, qkv_dim, 0});
        stages.v->record(recorder, buffers, {range.v, q_dim + kv_dim + kv_row, n_tokens, qkv_dim, 0});
    }
    recorder.barrier();
    // Rings have room for so many tokens before a query must have read what they overwrite.
    const std::uint32_t part = has_rings(layer) ? layout.config().max_chunk : n_tokens;
    for (std::uint32_t at = 0; at < n_tokens; at += part) {
        const std::uint32_t n = std::min(part, n_tokens - at);
        const auto from = [at](const vk::Buffer& buffer, std::uint64_t row) {
            return vk::BufferRange{buffer, at * row, buffer.bytes() - at * row};
        };
        rope_append_.record(recorder,
                            {from(b.projections, qkv_dim * 4ull), weights_.rope, cache_.tables(), w.params,
                             from(b.query, q_dim * 2ull), cache_.keys(layer), cache_.values(layer)},
                            {n, position + at, shape_.rms_eps, shape_.attention_scale, w.rope_offset,
                             layout.table_offset(layer), layout.table_stride()});
        recorder.barrier();
        if (attention_ != nullptr && at + n == n_tokens)
            attention_->record_prefill(recorder, layer, n_tokens, position);
        if (attention_ != nullptr) attention_->record_evicted(recorder, layer, position + at + n);
        attend_.record(recorder,
                       {cache_.tables(), cache_.keys(layer), cache_.values(layer), from(b.query, q_dim * 2ull),
                        from(b.halves, q_dim * 2ull)},
                       {n, position + at, layout.table_offset(layer), layout.table_stride()});
        recorder.barrier();
    }
    record_branch_end(recorder, *stages.output, w.output, w.post_attn_norm, n_tokens);

    norm_.record(recorder, {b.x, w.ffn_norm, b.halves, b.x}, {n_tokens, shape_.rms_eps});
    recorder.barrier();
    for (const GateUpRange& range : w.gate_up) {
        stages.gate->record(recorder, {range.where, b.halves, b.gate_up},
                            {range.gate, range.first_row, n_tokens, 2 * shape_.n_ff, 0});
        stages.up->record(recorder, {range.where, b.halves, b.gate_up},
                          {range.up, shape_.n_ff + range.first_row, n_tokens, 2 * shape_.n_ff, 0});
    }
    recorder.barrier();
    gate_.record(recorder, {b.gate_up, b.halves}, {n_tokens});
    recorder.barrier();
    record_branch_end(recorder, *stages.down, w.down, w.post_ffn_norm, n_tokens);
}

// Projection of a branch back to the residual stream, with the post norm where the model has one.
void Prefill::record_branch_end(vk::Recorder& recorder, const Matmul& matmul, const std::vector<MatrixRange>& ranges,
                                const vk::BufferRange& post_norm, std::uint32_t n_tokens) const {
    const PrefillBuffers& b = buffers_;
    const vk::Buffer& out = shape_.post_norms ? b.raw : b.x;
    for (const MatrixRange& range : ranges)
        matmul.record(recorder, {range.where, b.halves, out}, {range.ref, range.first_row, n_tokens, shape_.n_embd, 0});
    recorder.barrier();
    if (shape_.post_norms) {
        add_norm_.record(recorder, {b.raw, post_norm, b.halves, b.x}, {n_tokens, shape_.rms_eps});
        recorder.barrier();
    }
}

void Prefill::read_logits(std::uint32_t first, std::uint32_t n_tokens, const LogitRows& rows) {
    if (!logits_) {
        logits_ = &matmuls_.get(device_, {shape_.n_embd, type_of(weights_.output.front().ref), false});
        logit_rows_ = vk::Buffer(device_, "logit_rows", std::uint64_t{kLogitTokens} * shape_.n_vocab * 4,
                                 vk::BufferUse::kReadback);
    }
    vk::Recorder recorder(device_, "prefill_logits");
    const Drain drain{timeline_};
    for (std::uint32_t at = 0; at < n_tokens;) {
        const std::uint32_t n = std::min(static_cast<std::uint32_t>(logit_pace_.fitting()), n_tokens - at);
        const auto begin = std::chrono::steady_clock::now();
        recorder.begin();
        recorder.full_barrier();
        if (at == 0) {
            norm_.record(recorder, {buffers_.x, weights_.output_norm, buffers_.halves, buffers_.x},
                         {n_tokens, shape_.rms_eps});
            recorder.barrier();
        }
        for (const MatrixRange& range : weights_.output)
            logits_->record(recorder, {range.where, buffers_.halves, logit_rows_},
                            {range.ref, range.first_row, n, shape_.n_vocab, at});
        recorder.full_barrier();
        recorder.end();
        timeline_.wait(timeline_.submit(recorder));
        logit_pace_.note(n, seconds_since(begin));
        const std::span<const float> logits(logit_rows_.mapped_as<const float>(), std::size_t{n} * shape_.n_vocab);
        check_finite(logits);
        rows(first + at, logits);
        at += n;
    }
}

}  // namespace winnow
