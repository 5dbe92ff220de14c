// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

#include "models/model.h"
#include "runtime/decode/attention_pipeline.h"
#include "runtime/kv/kv_layout.h"

namespace winnow {

/// What a session's memory follows from, without a device: the arithmetic that planning and allocation share.

/// The model's sidecar, when the preset has a use for one; a stand-in for models without a file.
SparseOptions with_calibration(const ModelSource& model, SparseOptions sparse);

/// The policy of a preset on this model; index keys are int8 beside a quantised cache unless options say otherwise.
/// @throws Error(kInvalidArgument) for a name, setting or missing sidecar.
SparsePolicy resolve_policy(const ModelShape& shape, const SparseOptions& options, KvType kv_type);

/// Tokens that a local head sees: the policy's own, or its part of the context.
std::uint32_t local_window(const SparsePolicy& policy, std::uint32_t n_ctx);

/// Tokens of the longest prefill chunk. @param asked 0 = the default of a device with so much memory.
std::uint32_t chunk_tokens(std::uint32_t asked, bool is_cpu, std::uint64_t memory_bytes, std::uint32_t n_ctx);

/// @param n_ctx, n_chunk tokens of the cache and of the longest prefill chunk; max_chunk of the result is shorter where
/// rings would grow by more than an eighth of their window.
KvConfig kv_config(const ModelShape& shape, KvType type, std::uint32_t n_ctx, std::uint32_t n_chunk,
                   const SparsePolicy& policy);

/// What a session that is opened with the policy keeps its keys and values in, tables included.
std::uint64_t planned_kv_bytes(const ModelShape& shape, KvType type, std::uint32_t n_ctx, std::uint32_t n_chunk,
                               const SparsePolicy& policy);

AttentionShape attention_shape(const ModelShape& shape);

}  // namespace winnow
