// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "models/model_config.h"

namespace winnow {

/// Llama 1-3, Mistral, SmolLM and many others: RMS norm, rotated neighbouring pairs, SiLU-gated MLP.
ModelShape read_llama_shape(const GgufFile& file);
ModelTensors read_llama_tensors(const GgufFile& file, const ModelShape& shape);

}  // namespace winnow
