// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/cached_tokens.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/vk/device.h"
#include "winnow/sparse.h"

namespace winnow {

/// What keys and values in a file depend on besides the shape of the cache.
struct CacheStamp {
    std::string model;                  ///< model_hash()
    std::vector<std::uint32_t> tables;  ///< block tables as the device has them: what each head sees, and its ring
};

/// What decides which tokens a step selects, but for what head roles do. Never 0.
std::uint32_t policy_hash(const SparsePolicy& policy);

/// Writes the used blocks of a cache. A file that is new is readable by its owner only.
/// @throws Error(kIo), or Error(kInvalidArgument) where `path` is something else than a prompt cache; nothing has
/// changed there then.
void write_cache_file(const std::string& path, vk::Device& device, const KvCache& cache, const CacheStamp& stamp,
                      std::span<const std::int32_t> tokens, const CacheHistory& history);

/// A file of write_cache_file() that fits a cache, all of it verified. The file stays open: who replaces it changes
/// nothing here.
class CacheFile {
public:
    /// @throws Error(kBadFile) for a damaged file or one of another model, cache type, window or ring;
    /// Error(kInvalidArgument) for one that is no prompt cache; Error(kIo).
    CacheFile(const std::string& path, const KvCache& cache, const CacheStamp& stamp);
    ~CacheFile();
    CacheFile(const CacheFile&) = delete;
    CacheFile& operator=(const CacheFile&) = delete;

    const std::vector<std::int32_t>& tokens() const { return tokens_; }
    const CacheHistory& history() const { return history_; }
    /// Tokens, from the first on, that are what a session with this policy would have made of them.
    std::uint32_t n_valid(const SparsePolicy& policy) const {
        return policy_hash(policy) == history_.policy ? static_cast<std::uint32_t>(tokens_.size()) : history_.n_dense;
    }
    /// Puts the keys and values of the first n tokens into the cache, and all that the file has of rings.
    void load(vk::Device& device, const KvCache& cache, std::uint32_t n) const;

private:
    void verify(const KvCache& cache, const CacheStamp& stamp);
    void read(std::uint64_t offset, void* to, std::size_t n_bytes) const;
    [[noreturn]] void refuse(const std::string& what) const;

    std::string path_;
    int fd_ = -1;
    std::vector<std::int32_t> tokens_;
    CacheHistory history_;
    std::uint64_t blocks_at_ = 0;  ///< where keys and values begin
};

}  // namespace winnow
