// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf.h"
#include "winnow/types.h"

namespace winnow {

/// Tensors of one layer; absent ones are null. Linear layers are [n_in, n_out].
struct LayerTensors {
    const GgufTensor* attn_norm = nullptr;
    const GgufTensor* attn_q = nullptr;
    const GgufTensor* attn_k = nullptr;
    const GgufTensor* attn_v = nullptr;
    const GgufTensor* attn_q_bias = nullptr;
    const GgufTensor* attn_k_bias = nullptr;
    const GgufTensor* attn_v_bias = nullptr;
    const GgufTensor* attn_q_norm = nullptr;
    const GgufTensor* attn_k_norm = nullptr;
    const GgufTensor* attn_output = nullptr;
    const GgufTensor* post_attention_norm = nullptr;
    const GgufTensor* ffn_norm = nullptr;
    const GgufTensor* ffn_gate = nullptr;
    const GgufTensor* ffn_up = nullptr;
    const GgufTensor* ffn_down = nullptr;
    const GgufTensor* post_ffw_norm = nullptr;
};

struct ModelTensors {
    const GgufTensor* token_embd = nullptr;
    const GgufTensor* output_norm = nullptr;
    const GgufTensor* output = nullptr;  ///< token_embd itself when the model ties them
    std::vector<LayerTensors> layers;
};

/// What general.architecture names. @throws Error(kBadFile) for an unknown architecture, RoPE scaling or value,
/// naming it and what is known, and for a key that the architecture's recipe does not read but that changes results.
ModelShape read_model_shape(const GgufFile& file);

/// The tensors of the file's architecture, every shape and type checked against `shape`. One that the recipe leaves out
/// is refused.
/// @throws Error(kBadFile) naming the tensor, what was expected and what was found.
ModelTensors read_model_tensors(const GgufFile& file, const ModelShape& shape);

/// Architectures that this build knows.
std::vector<std::string_view> known_architectures();

// ---- for the architecture files (llama.cpp, gemma3.cpp, ...) ----

/// A metadata key with the architecture's prefix: key("block_count") is "llama.block_count".
class ConfigReader {
public:
    ConfigReader(const GgufFile& file, std::string_view architecture) : file_(file), prefix_(architecture) {}
    const GgufFile& file() const { return file_; }
    std::string key(std::string_view name) const { return prefix_ + "." + std::string(name); }
    /// @throws Error(kBadFile) when absent or outside [least, most].
    std::uint32_t count(std::string_view name, std::uint64_t least, std::uint64_t most) const;
    std::uint32_t count_or(std::string_view name, std::uint32_t otherwise, std::uint64_t least,
                           std::uint64_t most) const;
    /// @throws Error(kBadFile) when absent or outside [least, most]; NaN is outside.
    float real(std::string_view name, float least, float most) const;
    float real_or(std::string_view name, float otherwise, float least, float most) const;
    /// Refuses a feature that would change the result: the key must be absent or 0.
    void refuse_unless_zero(std::string_view name) const;
    /// @throws Error(kBadFile) naming the key and its value, which `what` judges: "is no multiple of 32".
    [[noreturn]] void refuse_value(std::string_view name, std::uint64_t value, std::string_view what) const;

private:
    const GgufFile& file_;
    std::string prefix_;
};

/// Fields that all architectures share: counts, dimensions, context, epsilon, vocabulary; layers get the file's RoPE
/// base.
ModelShape read_common_shape(const ConfigReader& config);
/// A RoPE base, 10000 when absent.
float read_rope_base(const ConfigReader& config, std::string_view name);
/// Position scale of linear RoPE scaling (1 when there is none). @throws Error(kBadFile) for any other kind, by name.
float read_linear_rope_scale(const ConfigReader& config);

/// Finds and checks tensors of "blk.N.".
class TensorFinder {
public:
    explicit TensorFinder(const GgufFile& file) : file_(file) {}
    /// @throws Error(kBadFile) when absent, of the wrong shape, or (vectors) neither F32 nor F16.
    const GgufTensor* matrix(const std::string& name, std::uint64_t n_in, std::uint64_t n_out) const;
    const GgufTensor* vector(const std::string& name, std::uint64_t n) const;
    bool has(const std::string& name) const { return file_.find(name) != nullptr; }

private:
    const GgufFile& file_;
};

/// Tensors that all architectures share: embeddings, norms, projections; the caller adds the rest.
ModelTensors read_common_tensors(const GgufFile& file, const ModelShape& shape);

}  // namespace winnow
