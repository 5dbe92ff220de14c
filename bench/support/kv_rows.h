// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kv/kv_cache.h"
#include "tests/reference/attend_dense.h"

namespace winnow::bench {

struct Shape;

/// The cache types that benches go through: f16, q8_0 and q4_0.
inline const std::vector<KvType> kKvTypes{KvType::kF16, KvType::kQ8_0, KvType::kQ4_0};
const char* kv_type_name(KvType type);

/// The rows of whole blocks of a pool of one of these types (shaders/common/kv_store.glsl), as numbers: [n_rows,
/// head_dim].
std::vector<float> kv_values(KvType type, std::uint32_t head_dim, std::span<const std::byte> blocks);

/// A cache of pseudo-random keys and values, all layers alike. Its blocks are drawn from a few different ones, in
/// random order, so that a reference needs few numbers however long it is and a stage that passes over a part of it
/// still errs.
class RandomCache {
public:
    /// @param type one of kKvTypes. @throws Error(kOutOfMemory) where it does not fit.
    RandomCache(const Shape& shape, std::uint32_t n_tokens, KvType type = KvType::kF16, std::uint32_t n_layers = 1);

    const KvCache& pools() const { return pools_; }
    const KvLayout& layout() const { return pools_.layout(); }
    std::uint32_t head_dim() const { return layout().config().head_dim; }
    std::uint32_t n_layers() const { return layout().config().n_layers; }
    /// Where a reference finds the rows of a kv head; `heads` of a view are made of these.
    reference::HeadView head(std::uint32_t kv_head) const;
    reference::CacheView view(std::span<const reference::HeadView> heads) const {
        return {head_dim(), keys_, values_, heads};
    }

private:
    KvCache pools_;
    std::vector<std::uint32_t> drawn_;  // which of the different blocks stands at a physical one
    std::vector<float> keys_, values_;  // of the different ones
};

}  // namespace winnow::bench
