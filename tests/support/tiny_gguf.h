// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "winnow/types.h"

namespace winnow::test {

/// A model small enough for tests, in a real GGUF file.
struct TinyOptions {
    std::string architecture = "llama";  ///< or "gemma3"
    WeightType type = WeightType::kQ4_0;
    std::uint32_t n_layers = 2;
    std::uint32_t n_embd = 64;
    std::uint32_t n_ff = 96;
    std::uint32_t n_heads = 4;
    std::uint32_t n_kv_heads = 2;
    std::uint32_t head_dim = 32;
    std::uint32_t n_ctx = 256;
    std::uint32_t window = 16;  ///< gemma3's windowed layers; every second layer is global
    std::uint64_t seed = 1;
    bool vocabulary_only = false;
};

/// Bytes of a GGUF file with deterministic random weights and a working tokenizer: byte-level BPE over all bytes with
/// a few merges (llama), or SentencePiece with byte fallback (gemma3), special tokens and a chat template.
std::vector<std::byte> make_tiny_gguf(const TinyOptions& options = {});

}  // namespace winnow::test
