// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "models/model_config.h"

namespace winnow {

/// Gemma 3 (text): QK norm, norms before and after each branch, five windowed layers for each global one, GELU gate,
/// scaled embeddings (Gemma 3 Technical Report, 2025).
ModelShape read_gemma3_shape(const GgufFile& file);
ModelTensors read_gemma3_tensors(const GgufFile& file, const ModelShape& shape);

}  // namespace winnow
