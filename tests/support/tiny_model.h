// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "models/model.h"
#include "tests/reference/forward.h"

namespace winnow::test {

enum class Flavour {
    kLlama,   ///< every layer sees everything; scaled RoPE frequencies; output matrix of its own
    kQwen2,   ///< as llama, with Q/K/V biases and halves as RoPE pairs
    kGemma3,  ///< QK norm, post norms, GELU, halves as RoPE pairs, windows of 16 on two layers of three, tied output
};
std::string flavour_name(Flavour flavour);

/// A random model made in memory, small enough for a reference in double, with a different weight type for each matrix.
/// n_embd 64, 4 query and 2 kv heads of 32, 3 layers, vocabulary 320.
class TinyModel {
public:
    /// @param query type of Q in all layers but the second.
    explicit TinyModel(Flavour flavour, std::uint64_t stream = 0, WeightType table = WeightType::kQ8_0,
                       WeightType query = WeightType::kQ4_0);

    const ModelShape& shape() const { return reference_.shape; }
    /// For make_session(); all share the tensors' bytes.
    ModelSource source() const;
    const reference::ForwardModel& reference() const { return reference_; }

private:
    struct Storage;
    std::shared_ptr<Storage> storage_;
    ModelTensors tensors_;
    reference::ForwardModel reference_;
};

/// Token ids below the vocabulary's size.
std::vector<std::int32_t> random_tokens(std::size_t n, std::uint64_t stream = 0);

}  // namespace winnow::test
