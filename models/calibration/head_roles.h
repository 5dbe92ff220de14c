// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "winnow/sparse.h"
#include "winnow/types.h"

namespace winnow {

/// How strongly each kv head retrieves, from the scores in the calibration [n_layers, n_kv_heads]: 1 at the edge of the
/// best 14 % by induction, 1 % by echo or 15 % by retrieval of a needle (RazorAttention, RTPurbo), smaller further
/// inside, larger outside. A kv head counts as its best query head does.
std::vector<float> head_levels(const Calibration& calibration, const ModelShape& shape);

/// Whether any head looks back at copies or at the needle: random weights have no head that gives them a tenth of its
/// attention.
bool has_retrieval_heads(const Calibration& calibration);

/// Marks the kv heads whose level is at most `level` as full heads.
void mark_full_heads(Calibration& calibration, const ModelShape& shape, const std::vector<float>& levels, float level);
/// The level at which a share of the kv heads of full layers is marked.
float level_of_share(const ModelShape& shape, const std::vector<float>& levels, float share);

}  // namespace winnow
