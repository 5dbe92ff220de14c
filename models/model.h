// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>

#include "models/gguf.h"
#include "models/model_config.h"
#include "models/weights.h"
#include "winnow/session.h"

namespace winnow {

namespace vk {
class Device;
}

/// Shape and tensors of a model, from a file or made in memory; the tensors' bytes live as long as the object.
struct ModelSource {
    ModelShape shape;
    ModelTensors tensors;
    std::unique_ptr<GgufFile> file;  ///< where the bytes are mapped, or null
    std::shared_ptr<void> owned;     ///< or what holds them
};

/// @throws Error(kBadFile).
ModelSource open_model(const std::string& path);

/// Context length and chunk that a session will use: what was asked for, or what fits.
struct ResolvedOptions {
    std::uint32_t n_ctx = 0;
    std::uint32_t n_chunk = 0;
    std::uint32_t n_splits = 0;
    MemoryPlan memory;
    bool fits = true;                   ///< false only when that was allowed
    std::uint64_t dense_f16_bytes = 0;  ///< keys and values that dense attention in f16 would keep
    float full_share = 1;               ///< kv heads that keep every token, of those in layers without a window
};

/// Sizes everything without allocating. @throws Error(kInvalidArgument) for a context above what the model was trained
/// for, Error(kOutOfMemory) when it `must_fit` and does not; the message names the largest that does.
ResolvedOptions plan_session(const vk::Device& device, const ModelSource& model, const SessionOptions& options,
                             bool must_fit = true);

/// The longest context whose plan fits `card_bytes` of memory on a GPU; 0 = what is free on `device`. Reads
/// options.n_ctx not.
/// @throws Error(kOutOfMemory) when not even 64 tokens fit.
ResolvedOptions fit_session(const vk::Device& device, const ModelSource& model, const SessionOptions& options,
                            std::uint64_t card_bytes);

/// Session on an opened device; `device` must outlive it.
std::unique_ptr<Session> make_session(std::unique_ptr<vk::Device> device, ModelSource model,
                                      const SessionOptions& options);

}  // namespace winnow
