// SPDX-License-Identifier: Apache-2.0
#include "models/sparse_meter.h"

#include <algorithm>
#include <cmath>

namespace winnow {
namespace {

void summarize_masses(std::vector<float> values, double& mean, double& p5, double& least) {
    if (values.empty()) return;
    std::sort(values.begin(), values.end());
    double sum = 0;
    for (const float v : values) sum += v;
    mean = sum / static_cast<double>(values.size());
    p5 = values[values.size() / 20];
    least = values.front();
}

}  // namespace

SparseMeter::SparseMeter(const ModelShape& shape, const KvLayout& layout, AttentionPipeline& attention,
                         std::uint32_t audit_every)
    : shape_(shape), layout_(layout), attention_(attention), audit_every_(audit_every) {
    if (audit_every > 1 && !policy().levels.empty()) controller_.emplace(policy(), shape.n_kv_heads);
    reset();
}

void SparseMeter::reset() {
    n_steps_ = n_sparse_steps_ = n_unaudited_ = 0;
    bytes_read_ = 0;
    share_sums_.assign(std::size_t{shape_.n_layers} * shape_.n_kv_heads, 0.0);
    mass_sums_.assign(std::size_t{shape_.n_layers} * shape_.n_heads, 0.0);
    mass_counts_.assign(mass_sums_.size(), 0);
    masses_.clear();
    rest_masses_.clear();
}

void SparseMeter::note_step(const DecodeLoop& loop, std::uint32_t n_tokens) {
    ++n_steps_;
    const bool sparse = loop.last_was_sparse();
    bytes_read_ += static_cast<double>(attention_.bytes_read(n_tokens, sparse));
    if (!sparse) return;
    ++n_sparse_steps_;
    const double n = n_tokens;
    const std::span<const std::uint32_t> counts = attention_.attended_counts(n_tokens);
    for (std::size_t i = 0; i < counts.size(); ++i)
        share_sums_[i] +=
            policy().is_local(i) ? std::min(1.0, (policy().local_window + policy().sink) / n) : counts[i] / n;
    if (audit_every_ == 0) return;
    for (std::uint64_t layer = loop.last_audit_phase(); layer < shape_.n_layers; layer += audit_every_) {
        const auto audited = static_cast<std::uint32_t>(layer);
        if (policy().layers[audited].attends_to_all()) continue;
        if (controller_ && controller_->steers(audited)) steer(audited, n_tokens);
        note_audit(audited);
    }
}

// Of a ring the audit sees only what the head itself sees; local heads are meant to lose the rest.
bool SparseMeter::can_audit(std::uint32_t layer, std::uint32_t kv_head) const {
    return layout_.head(layer, kv_head).ring_blocks == 0 && !policy().is_local(layer * shape_.n_kv_heads + kv_head);
}

void SparseMeter::note_audit(std::uint32_t layer) {
    const std::span<const AttentionPipeline::Mass> records = attention_.audit_records();
    for (std::uint32_t h = 0; h < shape_.n_heads; ++h) {
        const std::uint32_t kv_head = h / shape_.n_group();
        if (!can_audit(layer, kv_head)) {  // nothing to compare with
            n_unaudited_ += layout_.head(layer, kv_head).ring_blocks != 0 ? 1 : 0;
            continue;
        }
        const std::size_t i = std::size_t{layer} * shape_.n_heads + h;
        masses_.push_back(records[i].mass);
        rest_masses_.push_back(records[i].without_sinks);
        mass_sums_[i] += records[i].mass;
        ++mass_counts_[i];
    }
}

void SparseMeter::steer(std::uint32_t layer, std::uint32_t n_tokens) {
    const std::span<const AttentionPipeline::Mass> records = attention_.audit_records();
    const std::span<const std::uint32_t> counts = attention_.attended_counts(n_tokens);
    const std::uint32_t n_group = shape_.n_group();
    std::vector<HeadPolicy*> levels(policy().levels.size());
    for (std::uint32_t kv_head = 0; kv_head < shape_.n_kv_heads; ++kv_head) {
        if (!can_audit(layer, kv_head)) continue;
        float least = 1;
        for (std::uint32_t g = 0; g < n_group; ++g)
            least = std::min(least, records[layer * shape_.n_heads + kv_head * n_group + g].mass);
        const double share = counts[layer * shape_.n_kv_heads + kv_head] / static_cast<double>(n_tokens);
        const AuditController::Source from = controller_->source(layer, kv_head);
        for (std::size_t i = 0; i < levels.size(); ++i)
            levels[i] = &attention_.head_policy(from.layer, from.kv_head, i);
        controller_->observe(layer, kv_head, least, static_cast<float>(share), n_tokens, levels);
    }
}

SparseReport SparseMeter::report() const {
    SparseReport r;
    r.n_steps = n_sparse_steps_;
    r.kv_bytes_per_token = n_steps_ == 0 ? 0 : bytes_read_ / static_cast<double>(n_steps_);
    r.layer_head_share.assign(share_sums_.size(), 1.0f);
    r.layer_head_mass.assign(mass_sums_.size(), NAN);
    if (n_sparse_steps_ == 0) return r;
    double share = 0;
    std::size_t n_full = 0;
    for (std::uint32_t layer = 0; layer < shape_.n_layers; ++layer) {
        if (shape_.layers[layer].window != 0) continue;
        for (std::uint32_t h = 0; h < shape_.n_kv_heads; ++h) {
            const std::size_t i = std::size_t{layer} * shape_.n_kv_heads + h;
            if (!policy().layers[layer].attends_to_all() || policy().is_local(i))
                r.layer_head_share[i] = static_cast<float>(share_sums_[i] / static_cast<double>(n_sparse_steps_));
            share += r.layer_head_share[i];
            ++n_full;
        }
    }
    r.attended_share = n_full == 0 ? 1 : share / static_cast<double>(n_full);
    r.n_audits = masses_.size();
    r.n_unaudited = n_unaudited_;
    summarize_masses(masses_, r.mass_mean, r.mass_p5, r.mass_min);
    summarize_masses(rest_masses_, r.rest_mean, r.rest_p5, r.rest_min);
    for (std::size_t i = 0; i < mass_sums_.size(); ++i)
        if (mass_counts_[i] > 0) r.layer_head_mass[i] = static_cast<float>(mass_sums_[i] / mass_counts_[i]);
    return r;
}

}  // namespace winnow
