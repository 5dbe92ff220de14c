// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/weights/attend_tuning.h"
#include "shaders/common/interface.h"
#include "tests/reference/attend_dense.h"
#include "tests/support/gpu_fixture.h"
#include "tests/support/random.h"
#include "winnow/types.h"

namespace winnow::test {

inline constexpr std::uint32_t kBlock = 64;

float half_value(std::uint16_t bits);
std::uint16_t half_bits(double value);  ///< nearest, ties to even; magnitudes of 2^-14 to 65504 and zero
inline float rounded_to_half(double value) { return half_value(half_bits(value)); }

struct CacheShape {
    std::uint32_t n_tokens = 1025;
    std::uint32_t head_dim = 64;
    std::uint32_t n_group = 3;
    KvType kv_type = KvType::kF16;
    std::uint32_t n_kv_heads = 2;
    float spread = 2;  ///< standard deviation of the scores: how concentrated attention is

    std::uint32_t position() const { return n_tokens - 1; }
    std::uint32_t n_heads() const { return n_group * n_kv_heads; }
    std::string text() const;
};

/// One layer's cache with its blocks in random places, NaN in every slot that holds no token, and a query. Keys and
/// values are halves of at least 2^-12, so that both float types hold the same numbers and sums of 1024 of them are
/// exact in f32; those of a quantised cache are what it holds exactly, and most of them neither halves nor sums of f32.
struct TestCache {
    explicit TestCache(const CacheShape& cache_shape, std::uint64_t stream = 0);
    /// Only the last `window` tokens and the first `sinks` are seen by this head.
    void set_window(std::uint32_t kv_head, std::uint32_t window, std::uint32_t sinks);

    reference::CacheView view() const { return {shape.head_dim, keys, values, heads}; }
    std::size_t key_at(std::uint32_t kv_head, std::uint32_t token) const {
        return heads[kv_head].row(token) * shape.head_dim;
    }
    std::vector<std::uint32_t> table() const;                                     ///< with table_offset words before it
    vk::Buffer upload(vk::Device& device, const std::vector<float>& rows) const;  ///< a pool, as the cache type
    vk::Buffer upload_summary(vk::Device& device, const std::vector<float>& rows) const;
    std::size_t n_rows() const { return std::size_t{n_physical} * kBlock; }
    double score_terms(std::uint32_t head) const;  ///< most that sum |q k| of a query head can be: max |k| * sum |q|

    static constexpr std::uint32_t table_offset = 7;
    CacheShape shape;
    std::uint32_t n_physical = 0, table_stride = 0;
    std::vector<reference::HeadView> heads;
    std::vector<float> keys, values;  ///< [n_physical, kBlock, head_dim]
    std::vector<float> query;         ///< [n_heads, head_dim]
};

/// Roundings (dense_data.h) that attention by matrix units adds to each term of what it attends to, if that is what the
/// device takes for the stage: keys and values of a quantised cache become halves there, which moves either by 2^-11 of
/// itself at most. A term has its value once, and its condition has what its key adds to the score, and to those of the
/// others in the denominator (reference::Attended).
double half_roundings(vk::Device& device, const AttendStage& stage, const AttendTuning& asked = {});

/// Scores by hand: query head g sees 8 * channel g of a key. Every ninth token is weak in all heads, another ninth in
/// all but the second.
void grade(TestCache& cache);

vk::Buffer make_sparse_state(vk::Device& device, std::uint32_t position, bool stopped = false);

}  // namespace winnow::test
