// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "runtime/kv/evicted_sums.h"
#include "runtime/kv/kv_layout.h"
#include "runtime/vk/buffer.h"

namespace winnow {

/// The pools and block tables of one sequence on a device. All memory is taken on construction.
class KvCache {
public:
    /// @throws Error(kOutOfMemory) naming the layer's pool, the limit and the largest capacity that would fit it.
    KvCache(vk::Device& device, KvConfig config);

    const KvLayout& layout() const { return layout_; }
    const vk::Buffer& keys(std::uint32_t layer) const { return keys_[layer]; }
    const vk::Buffer& values(std::uint32_t layer) const { return values_[layer]; }
    const vk::Buffer& tables() const { return tables_; }
    const EvictedSums& evicted() const { return evicted_; }  ///< empty where no role asks for it
    /// From now on the heads are summed for which these roles ask; rings stay as they are. Sums of heads that keep
    /// every token begin anew. @throws Error(kInvalidArgument) for a ring that was not summed from the first token on;
    /// nothing has changed then.
    void set_summed(vk::Device& device, const std::vector<HeadRole>& roles);
    std::uint64_t bytes() const { return layout_.total_bytes() + tables_.bytes() + evicted_.bytes(); }
    /// What the constructor takes, without a device.
    static std::uint64_t bytes_needed(const KvLayout& layout) {
        return layout.total_bytes() + layout.tables().size() * sizeof(std::uint32_t) +
               EvictedSums::bytes_needed(layout.config());
    }

private:
    KvLayout layout_;
    std::vector<vk::Buffer> keys_;
    std::vector<vk::Buffer> values_;
    vk::Buffer tables_;
    EvictedSums evicted_;
};

}  // namespace winnow
