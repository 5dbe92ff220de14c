// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/decode/attention_pipeline.h"
#include "runtime/decode/stage_set.h"
#include "runtime/dense/gate_up.h"
#include "runtime/dense/logits.h"
#include "runtime/dense/matvec_add.h"
#include "runtime/dense/qkv.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/step/embed.h"
#include "runtime/step/sample_token.h"
#include "runtime/vk/timer.h"
#include "runtime/weights/model_weights.h"

namespace winnow {

/// The order of one decode step: the only file that knows which stage follows which, and where barriers stand.
/// Holds references to everything it is given; they must outlive it and its recordings.
class DecodePlan {
public:
    DecodePlan(vk::Device& device, const ModelShape& shape, const ModelWeights& weights, const KvCache& cache,
               const StepBuffers& buffers, const AttentionPipeline& attention);

    /// What a recording does with the sparse layers.
    struct Variant {
        bool sparse = false;            ///< false: every layer attends to everything (below min_ctx)
        std::uint32_t audit_every = 0;  ///< audits the sparse layers l with l % audit_every == audit_phase; 0 = none
        std::uint32_t audit_phase = 0;
    };
    /// Records one step: reads the token of the state, samples the next one, advances the state.
    void record(vk::Recorder& recorder, const Variant& variant, vk::GpuTimer* timer = nullptr) const;

    std::uint32_t n_layers() const { return shape_.n_layers; }
    /// Dispatches of the step that wait for an earlier one; row ranges, which run beside each other, count once.
    std::uint32_t n_dependent_dispatches(bool sparse) const;

private:
    struct LayerStages {
        std::vector<const Qkv*> qkv;  // of a range
        const MatvecAdd* output = nullptr;
        const GateUp* gate_up = nullptr;
        const MatvecAdd* down = nullptr;
    };
    void record_layer(vk::Recorder& recorder, const Variant& variant, vk::GpuTimer* timer, std::uint32_t layer) const;
    void record_sampling(vk::Recorder& recorder, vk::GpuTimer* timer) const;

    const ModelShape& shape_;
    const ModelWeights& weights_;
    const KvCache& cache_;
    const StepBuffers& buffers_;
    StageSet<Qkv> qkv_stages_;
    StageSet<MatvecAdd> matvec_stages_;
    StageSet<GateUp> gate_up_stages_;
    std::vector<LayerStages> layers_;
    const AttentionPipeline& attention_;
    Embed embed_;
    Logits logits_;
    SampleToken sample_token_;
};

}  // namespace winnow
