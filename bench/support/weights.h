// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bench/support/gpu_bench.h"
#include "tests/reference/dequantize.h"

namespace winnow::bench {

/// Pseudo-random matrices of one type side by side, as a layer of a model has them, repacked and on the device: once,
/// or so many times that no cache holds all of it.
class Weights {
public:
    /// @param n_rows of each matrix. @param at_least_bytes of all copies together, as far as memory goes.
    /// @throws Error(kOutOfMemory) where one copy does not fit the device or one binding.
    Weights(WeightType type, const std::vector<std::uint32_t>& n_rows, std::uint32_t n_in,
            std::uint64_t at_least_bytes);
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;

    /// Copy i, modulo their number: all matrices.
    const vk::BufferRange& copy(std::uint32_t i) const { return copies_[i % copies_.size()]; }
    /// Where matrix `which` stands in each copy.
    const MatrixRef& ref(std::size_t which = 0) const { return refs_[which]; }
    /// Some rows of a matrix, as numbers.
    reference::Matrix rows(std::size_t which, std::span<const std::uint32_t> rows) const;

private:
    WeightType type_;
    std::uint32_t n_in_;
    std::vector<MatrixRef> refs_;
    std::vector<std::uint64_t> first_byte_;  // of each matrix in stored_
    std::unique_ptr<std::byte[]> stored_;    // in GGUF's block format
    std::vector<vk::Buffer> buffers_;
    std::vector<vk::BufferRange> copies_;
};

/// Weight types whose blocks fit rows of n_in.
std::vector<WeightType> fitting_types(std::uint32_t n_in);

/// Registers `stage`/shape/type for every shape and every weight type that fits its rows of n_in(shape).
void register_matvecs(const std::string& stage, const std::function<std::uint32_t(const Shape&)>& n_in,
                      const std::function<void(benchmark::State&, const Shape&, WeightType)>& run);

}  // namespace winnow::bench
