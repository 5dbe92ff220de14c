// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <functional>

#include "models/model_config.h"
#include "runtime/weights/model_weights.h"

namespace winnow {

/// Bytes that upload_weights() will take on a device with this binding limit, without touching one.
/// @throws Error(kUnsupported) when a matrix cannot be cut to fit.
std::uint64_t weight_bytes(const ModelShape& shape, const ModelTensors& tensors, std::uint32_t n_ctx,
                           std::uint64_t max_binding_bytes);

/// Repacks and uploads every tensor. Matrices above maxStorageBufferRange become row ranges, Q, K and V together
/// ranges of kv heads.
/// @param n_ctx tokens that the RoPE tables must reach.
/// @throws Error(kOutOfMemory) naming the buffer that did not fit.
ModelWeights upload_weights(vk::Device& device, const ModelShape& shape, const ModelTensors& tensors,
                            std::uint32_t n_ctx,
                            const std::function<void(std::uint64_t, std::uint64_t)>& progress = {});

}  // namespace winnow
