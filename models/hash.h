// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <xxhash.h>

#include <cstddef>
#include <memory>

namespace winnow {

/// XXH3 of bytes as they come, 64 bits.
class Hash {
public:
    using Digest = XXH64_hash_t;

    Hash() : state_(XXH3_createState(), XXH3_freeState) { XXH3_64bits_reset(state_.get()); }
    void add(const void* bytes, std::size_t n) { XXH3_64bits_update(state_.get(), bytes, n); }
    Digest digest() const { return XXH3_64bits_digest(state_.get()); }

private:
    std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

}  // namespace winnow
