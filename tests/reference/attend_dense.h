// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace winnow::reference {

/// What one kv head keeps and what its queries see: its row of a block table.
struct HeadView {
    std::uint32_t block_size = 64;
    std::uint32_t sink_blocks = 0;
    std::uint32_t ring_blocks = 0;      ///< 0: logical block b stands at entry b; else see row()
    std::uint32_t window = 0;           ///< tokens seen, the newest included; 0 = all
    std::uint32_t sink_tokens = 0;      ///< first tokens seen besides the window
    std::vector<std::uint32_t> blocks;  ///< physical block of each entry

    /// Row of the pools where a token stands: the blocks after the sinks take turns in the ring.
    std::size_t row(std::uint32_t token) const;
    bool sees(std::uint32_t position, std::uint32_t token) const;
};

/// Keys and values f32 [n_physical, block_size, head_dim], and who finds what in them.
struct CacheView {
    std::uint32_t head_dim = 0;
    std::span<const float> keys, values;
    std::span<const HeadView> heads;  ///< [n_kv_heads]
};

struct Attended {
    std::vector<double> output;  ///< [n_heads, head_dim]
    /// [n_heads, head_dim] sum of |terms|, each times its condition: a score q.k errs by eps * sum |q k|, and
    /// exp(x) by eps * |x| besides, which a weight p = exp(score - max) / sum inherits as relative errors.
    std::vector<double> terms;
    std::vector<double> lse;  ///< [n_heads] natural logarithm of the sum of exp(score)
};

/// Softmax attention of one query [n_heads, head_dim] (scaled) at `position` over everything it sees.
Attended attend_dense(std::span<const float> query, const CacheView& cache, std::uint32_t position);

}  // namespace winnow::reference
