// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/decode/attention_pipeline.h"
#include "runtime/decode/audit_controller.h"
#include "runtime/decode/decode_loop.h"
#include "winnow/session.h"

namespace winnow {

/// What the steps of an answer read and kept. After each step it reads what the attention left in host-visible memory;
/// of what the device reads it changes the budgets of heads, where audits steer them, and nothing else.
class SparseMeter {
public:
    /// @param audit_every as SparseOptions::audit_every. 1 only measures, so that what is reported is the policy's own
    /// doing; more steers.
    SparseMeter(const ModelShape& shape, const KvLayout& layout, AttentionPipeline& attention,
                std::uint32_t audit_every);

    /// Begins anew; budgets stay as audits left them.
    void reset();
    /// Notes the step whose token the loop returned last. @param n_tokens in the cache, its own included.
    void note_step(const DecodeLoop& loop, std::uint32_t n_tokens);
    SparseReport report() const;

private:
    const SparsePolicy& policy() const { return attention_.policy(); }
    bool can_audit(std::uint32_t layer, std::uint32_t kv_head) const;
    void note_audit(std::uint32_t layer);
    void steer(std::uint32_t layer, std::uint32_t n_tokens);

    const ModelShape& shape_;
    const KvLayout& layout_;
    AttentionPipeline& attention_;
    std::uint32_t audit_every_;
    std::optional<AuditController> controller_;
    std::uint64_t n_steps_ = 0, n_sparse_steps_ = 0, n_unaudited_ = 0;
    double bytes_read_ = 0;
    std::vector<double> share_sums_;  // [n_layers, n_kv_heads] tokens attended of those cached, over sparse steps
    std::vector<double> mass_sums_;   // [n_layers, n_heads]
    std::vector<std::uint32_t> mass_counts_;   // [n_layers, n_heads] audits
    std::vector<float> masses_, rest_masses_;  // of every audit, with and without sinks
};

}  // namespace winnow
