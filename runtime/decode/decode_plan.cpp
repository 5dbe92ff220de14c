// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/decode_plan.h"

#include <algorithm>

#include "runtime/vk/device.h"

namespace winnow {
namespace {

// Places in StepBuffers::counters: one per kv head for attention, then these.
std::uint32_t norm_counter(const ModelShape& shape) { return shape.n_kv_heads; }

WeightType type_of(const MatrixRef& ref) { return static_cast<WeightType>(ref.type); }

}  // namespace

DecodePlan::DecodePlan(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
                       const StepBuffers& buffers, const AttentionPipeline& attention)
    : shape_(shape),
      weights_(weights),
      cache_(cache),
      buffers_(buffers),
      attention_(attention),
      embed_(device, {shape.n_embd, type_of(weights.table.front().ref)}),
      logits_(device, {shape.n_embd, shape.n_vocab, type_of(weights.output.front().ref)}),
      sample_token_(device) {
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        const LayerWeights& w = weights.layers[layer];
        Qkv::Config qkv;
        qkv.n_embd = shape.n_embd;
        qkv.n_heads = shape.n_heads;
        qkv.n_kv_heads = shape.n_kv_heads;
        qkv.head_dim = shape.head_dim;
        qkv.n_rot = shape.n_rot;
        qkv.pairing = shape.rope_pairing;
        qkv.qk_norm = shape.qk_norm;
        qkv.bias = shape.qkv_bias;
        qkv.type_q = type_of(w.qkv.front().q);
        qkv.type_k = type_of(w.qkv.front().k);
        qkv.type_v = type_of(w.qkv.front().v);
        qkv.kv_type = cache.layout().config().type;
        qkv.block_size = cache.layout().config().block_size;
        qkv.summary_unit = attention.summaries(layer).min.buffer != nullptr ? attention.summary_unit() : 0;
        LayerStages stages;
        for (const QkvRange& range : w.qkv) {
            qkv.first_kv_head = range.first_kv_head;
            qkv.n_range_kv_heads = range.n_kv_heads;
            stages.qkv.push_back(&qkv_stages_.get(device, qkv));
        }
        const auto projection = [&](std::uint32_t n_in, const MatrixRange& range) {
            return &matvec_stages_.get(
                device, MatvecAdd::config_for(device, n_in, std::max(shape.q_dim(), shape.n_ff), shape.n_embd,
                                              type_of(range.ref), shape.post_norms));
        };
        stages.output = projection(shape.q_dim(), w.output.front());
        stages.gate_up = &gate_up_stages_.get(device, {shape.n_embd, shape.n_ff, type_of(w.gate_up.front().gate),
                                                       type_of(w.gate_up.front().up), shape.activation});
        stages.down = projection(shape.n_ff, w.down.front());
        layers_.push_back(stages);
    }
}

// The journey of a token: embedding, the layers, logits, the next token.
void DecodePlan::record(vk::Recorder& recorder, const Variant& variant, vk::GpuTimer* timer) const {
    // Orders this step after the one before it on the queue.
    recorder.full_barrier();
    recorder.timestamp(timer, "begin");
    for (const MatrixRange& range : weights_.table) {
        embed_.record(recorder,
                      {range.where, buffers_.state, buffers_.x, weights_.layers.front().attn_norm, buffers_.act_embd},
                      {range.ref, range.first_row, shape_.embedding_scale});
    }
    recorder.barrier();
    recorder.timestamp(timer, "embed");
    for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) record_layer(recorder, variant, timer, layer);
    record_sampling(recorder, timer);
    recorder.full_barrier();
}

void DecodePlan::record_layer(vk::Recorder& recorder, const Variant& variant, vk::GpuTimer* timer,
                              std::uint32_t layer) const {
    const LayerWeights& w = weights_.layers[layer];
    const LayerStages& stages = layers_[layer];
    const StepBuffers& b = buffers_;
    const KvLayout& layout = cache_.layout();
    const bool last = layer + 1 == shape_.n_layers;
    const vk::BufferRange next_norm = last ? weights_.output_norm : weights_.layers[layer + 1].attn_norm;
    const std::uint32_t counter = norm_counter(shape_);
    const AttentionPipeline::Summaries summaries = attention_.summaries(layer);

    for (std::size_t i = 0; i < w.qkv.size(); ++i) {
        const QkvRange& range = w.qkv[i];
        stages.qkv[i]->record(
            recorder,
            {range.where, b.act_embd, b.state, weights_.rope, cache_.tables(), w.params, b.query, cache_.keys(layer),
             cache_.values(layer), summaries.min, summaries.max, summaries.sum},
            {range.q, range.k, range.v, shape_.rms_eps, shape_.attention_scale, w.rope_offset,
             layout.table_offset(layer), layout.table_stride(), summaries.super_first, summaries.super_stride});
    }
    recorder.barrier();
    recorder.timestamp(timer, "qkv");

    attention_.record_decode(recorder, timer, layer, variant.sparse);
    // The audit reads what attention left and runs beside the output projection.
    if (variant.sparse && variant.audit_every != 0 && layer % variant.audit_every == variant.audit_phase)
        attention_.record_audit(recorder, layer);
    // So do the sums of what the next token will no longer see, which this one has just seen.
    attention_.record_evicted(recorder, layer, WINNOW_AFTER_STEP);

    for (const MatrixRange& range : w.output) {
        stages.output->record(recorder,
                              {range.where, b.act_attended, b.state, b.x, w.ffn_norm, b.act_embd, w.post_attn_norm,
                               b.raw_product, b.counters},
                              {range.ref, range.first_row, shape_.rms_eps, counter, shape_.q_dim() / 32});
    }
    recorder.barrier();
    recorder.timestamp(timer, "output");

    for (const GateUpRange& range : w.gate_up) {
        stages.gate_up->record(recorder, {range.where, b.act_embd, b.state, b.act_ff},
                               {range.gate, range.up, range.first_row, shape_.rms_eps});
    }
    recorder.barrier();
    recorder.timestamp(timer, "gate_up");

    for (const MatrixRange& range : w.down) {
        stages.down->record(
            recorder,
            {range.where, b.act_ff, b.state, b.x, next_norm, b.act_embd, w.post_ffn_norm, b.raw_product, b.counters},
            {range.ref, range.first_row, shape_.rms_eps, counter, shape_.n_ff / 32});
    }
    recorder.barrier();
    recorder.timestamp(timer, "down");
}

void DecodePlan::record_sampling(vk::Recorder& recorder, vk::GpuTimer* timer) const {
    const StepBuffers& b = buffers_;
    for (const MatrixRange& range : weights_.output) {
        logits_.record(recorder, {range.where, b.act_embd, b.state, b.logits, b.maxima},
                       {range.ref, range.first_row, shape_.rms_eps, 0, 0});
    }
    recorder.barrier();
    recorder.timestamp(timer, "logits");
    const SamplePush push{shape_.n_vocab, logits_.n_maxima(), logits_.rows_per_group()};
    const vk::BufferRange counter(b.counters, 0, b.counters.bytes());
    sample_token_.record(recorder, {b.state, b.logits, b.maxima, b.candidates, b.counts, counter, b.ring}, push);
    recorder.barrier();
    recorder.timestamp(timer, "sample_token");
}

std::uint32_t DecodePlan::n_dependent_dispatches(bool sparse) const {
    std::uint32_t n = 1 + 2;  // embedding; logits and the sampler
    for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer)
        n += 4 + (sparse ? attention_.n_dispatches(layer) : 1);
    return n;
}

}  // namespace winnow
