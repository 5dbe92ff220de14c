// SPDX-License-Identifier: Apache-2.0
#include "examples/winnow/bench_stages.h"

#include <algorithm>
#include <cmath>

#include "examples/winnow/interrupt.h"
#include "examples/winnow/model_facts.h"
#include "runtime/kv/kv_layout.h"

namespace winnow::program {
namespace {

constexpr std::uint32_t kSamples = 20;
constexpr std::uint32_t kSoftwareSamples = 2;

struct AttentionBytes {
    double dense = 0, sparse = 0, selection = 0;
};

// Splits what the report says was read into the stages that read it.
AttentionBytes attention_bytes(const Session& session, const SparseReport& report, KvType type) {
    AttentionBytes bytes;
    const ModelShape& shape = session.shape();
    const std::uint64_t n_tokens = session.n_cached() + 1;
    if (report.n_steps == 0) {
        bytes.dense = static_cast<double>(kv_step_bytes(shape, type, n_tokens));
        return bytes;
    }
    const auto row = static_cast<double>(2 * kv_row_bytes(type, shape.head_dim));
    const SparsePolicy& policy = session.sparse_policy();
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        const LayerKind kind = policy.layers[layer].kind;
        const bool dense = kind == LayerKind::kDense || kind == LayerKind::kAnchor;
        const std::uint32_t window = shape.layers[layer].window;
        const std::uint64_t visible = window == 0 ? n_tokens : std::min<std::uint64_t>(window, n_tokens);
        for (std::uint32_t h = 0; h < shape.n_kv_heads; ++h) {
            const double share = report.layer_head_share[layer * shape.n_kv_heads + h];
            (dense ? bytes.dense : bytes.sparse) += row * share * static_cast<double>(visible);
        }
    }
    bytes.selection = std::max(0.0, report.kv_bytes_per_token - bytes.dense - bytes.sparse);
    return bytes;
}

// One step, its stages of the same name added up in the order of the step.
std::vector<StageRow> time_once(Session& session) {
    std::vector<StageRow> rows;
    for (const Session::StageTime& time : session.time_stages()) {
        const auto same = [&time](const StageRow& row) { return row.stage == time.stage; };
        auto found = std::find_if(rows.begin(), rows.end(), same);
        if (found == rows.end()) found = rows.insert(found, {time.stage, 0, 0, 0});
        found->microseconds += time.microseconds;
        ++found->n_dispatches;
    }
    return rows;
}

}  // namespace

StageWeights::StageWeights(const ModelSource& model) {
    const ModelTensors& t = model.tensors;
    const auto bytes = [](const GgufTensor* tensor) {
        return tensor == nullptr ? 0 : std::uint64_t{tensor->bytes.size()};
    };
    for (const LayerTensors& l : t.layers) {
        qkv_ += bytes(l.attn_q) + bytes(l.attn_k) + bytes(l.attn_v);
        output_ += bytes(l.attn_output);
        gate_up_ += bytes(l.ffn_gate) + bytes(l.ffn_up);
        down_ += bytes(l.ffn_down);
    }
    embed_ = bytes(t.token_embd) / std::max<std::uint64_t>(1, model.shape.n_vocab);
    logits_ = bytes(t.output);
}

std::uint64_t StageWeights::of(const std::string& stage) const {
    if (stage == "embed") return embed_;
    if (stage == "qkv") return qkv_;
    if (stage == "output") return output_;
    if (stage == "gate_up") return gate_up_;
    if (stage == "down") return down_;
    if (stage == "logits") return logits_;
    return 0;
}

std::vector<StageRow> time_stages(Session& session, const StageWeights& weights, const SparseReport& report,
                                  KvType kv_type) {
    const bool is_cpu = session.device().type == DeviceType::kCpu;
    std::vector<StageRow> best;
    for (std::uint32_t i = 0; i < (is_cpu ? kSoftwareSamples : kSamples); ++i) {
        throw_if_interrupted();
        std::vector<StageRow> rows = time_once(session);
        if (best.empty() || total_of(rows).microseconds < total_of(best).microseconds) best = std::move(rows);
    }
    const AttentionBytes attention = attention_bytes(session, report, kv_type);
    const bool scores_apart =
        std::any_of(best.begin(), best.end(), [](const StageRow& row) { return row.stage == "indexer_score"; });
    for (StageRow& row : best) {
        double bytes = static_cast<double>(weights.of(row.stage));
        if (row.stage == "attend_dense") bytes = attention.dense;
        if (row.stage == "attend_sparse" || row.stage == "select_attend") bytes = attention.sparse;
        if (row.stage == "indexer_score") bytes = attention.selection;
        if (row.stage == "select_attend" && !scores_apart) bytes += attention.selection;  // it scores boxes itself
        row.bytes = static_cast<std::uint64_t>(std::llround(bytes));
    }
    return best;
}

StageRow total_of(const std::vector<StageRow>& rows) {
    StageRow all{"all", 0, 0, 0};
    for (const StageRow& row : rows) {
        all.microseconds += row.microseconds;
        all.n_dispatches += row.n_dispatches;
        all.bytes += row.bytes;
    }
    return all;
}

}  // namespace winnow::program
