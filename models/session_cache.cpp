// SPDX-License-Identifier: Apache-2.0
#include "models/session_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "models/hash.h"
#include "runtime/io/safe_path.h"
#include "runtime/io/whole_file.h"
#include "runtime/vk/recorder.h"
#include "runtime/vk/timeline.h"
#include "shaders/common/interface.h"
#include "winnow/error.h"

namespace winnow {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

constexpr char kMagic[8] = {'w', 'i', 'n', 'n', 'o', 'w', 'K', 'V'};
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kSummedVersion = 2;  // with the sums of what left the rings
constexpr std::uint32_t kMostTokens = 1u << 30;
constexpr std::uint64_t kPieceBytes = 32u << 20;  // of a copy between host and device

// The file: Header, u32 [n_layers * n_kv_heads, kHeadWords] (the head words of the block tables), i32 tokens
// [n_tokens], then for each layer the used blocks of each head's keys, and of each head's values, then the sums of the
// rings that are summed; at its end the hash of everything before.
struct Header {
    char magic[8];
    std::uint32_t version;
    std::uint32_t kv_type;
    char model[16];
    std::uint32_t n_layers, n_kv_heads, head_dim, block_size;
    std::uint32_t n_tokens;
    CacheHistory history;
};
static_assert(sizeof(Header) == 64);
constexpr std::size_t kHeadWords = WINNOW_TABLE_HEADER;
using Digest = Hash::Digest;

// Other heads' sums are made anew from their rows.
std::vector<std::uint32_t> summed_rings(const KvCache& cache) {
    const KvLayout& layout = cache.layout();
    const std::uint32_t n_kv = layout.config().n_kv_heads;
    std::vector<std::uint32_t> rings;
    for (std::uint32_t i = 0; i < layout.config().n_layers * n_kv; ++i)
        if (cache.evicted().is_summed(i) && layout.head(i / n_kv, i % n_kv).ring_blocks != 0) rings.push_back(i);
    return rings;
}

Header make_header(const KvCache& cache, const CacheStamp& stamp, std::uint32_t n_tokens, const CacheHistory& history) {
    const KvConfig& c = cache.layout().config();
    Header h = {};
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.version = summed_rings(cache).empty() ? kVersion : kSummedVersion;
    h.kv_type = static_cast<std::uint32_t>(c.type);
    std::memcpy(h.model, stamp.model.data(), std::min(stamp.model.size(), sizeof h.model));
    h.n_layers = c.n_layers;
    h.n_kv_heads = c.n_kv_heads;
    h.head_dim = c.head_dim;
    h.block_size = c.block_size;
    h.n_tokens = n_tokens;
    h.history = history;
    return h;
}

std::vector<std::uint32_t> head_words(const KvCache& cache, const CacheStamp& stamp) {
    const KvLayout& layout = cache.layout();
    std::vector<std::uint32_t> words;
    for (std::size_t i = 0; i < std::size_t{layout.config().n_layers} * layout.config().n_kv_heads; ++i) {
        const auto row = stamp.tables.begin() + static_cast<std::ptrdiff_t>(i * layout.table_stride());
        words.insert(words.end(), row, row + kHeadWords);
    }
    return words;
}

std::uint64_t used_blocks(const KvLayout& layout, const HeadLayout& head, std::uint32_t n_tokens,
                          std::uint32_t n_written) {
    const std::uint64_t block = layout.config().block_size;
    if (head.ring_blocks == 0) return (n_tokens + block - 1) / block;
    return std::min<std::uint64_t>((n_written + block - 1) / block, head.n_blocks);
}

// Consecutive bytes of a pool, and where they stand among the blocks of a file.
struct Run {
    const vk::Buffer* pool = nullptr;
    std::uint64_t offset = 0, bytes = 0;
    std::uint64_t at = 0;
};

// The blocks of the first `n` of a file's n_tokens tokens. @param total_bytes gets what all n_tokens take.
std::vector<Run> block_runs(const KvCache& cache, std::uint32_t n, std::uint32_t n_tokens, std::uint32_t n_written,
                            std::uint64_t& total_bytes) {
    const KvLayout& layout = cache.layout();
    std::vector<Run> runs;
    total_bytes = 0;
    for (std::uint32_t layer = 0; layer < layout.config().n_layers; ++layer) {
        for (const vk::Buffer* pool : {&cache.keys(layer), &cache.values(layer)}) {
            for (std::uint32_t h = 0; h < layout.config().n_kv_heads; ++h) {
                const HeadLayout& head = layout.head(layer, h);
                const std::uint64_t bytes = used_blocks(layout, head, n, n_written) * layout.block_bytes();
                runs.push_back({pool, head.first_block * layout.block_bytes(), bytes, total_bytes});
                total_bytes += used_blocks(layout, head, n_tokens, n_written) * layout.block_bytes();
            }
        }
    }
    for (const std::uint32_t head : summed_rings(cache)) {
        const std::uint64_t row = EvictedSums::row_bytes(layout.config().head_dim);
        runs.push_back({&cache.evicted().sums(), head * row, row, total_bytes});
        total_bytes += row;
    }
    return runs;
}

// Copies runs through one staging buffer: as many as fill it in one submission, long ones in parts.
// @param host moves the bytes of a part between file and staging: (part, staged).
template <typename Host>
void copy_runs(vk::Device& device, const std::vector<Run>& runs, vk::BufferUse use, Host&& host) {
    std::uint64_t sum = 0;
    for (const Run& run : runs) sum += run.bytes;
    if (sum == 0) return;
    const vk::Buffer staging(device, "cache_staging", std::min(sum, kPieceBytes), use);
    std::vector<Run> parts;
    std::uint64_t filled = 0;
    const bool to_device = use == vk::BufferUse::kUpload;
    const auto on_host = [&] {
        std::uint64_t at = 0;
        for (const Run& part : parts) {
            host(part, staging.mapped_as<std::byte>() + at);
            at += part.bytes;
        }
    };
    const auto flush = [&] {
        if (to_device) on_host();
        vk::run_once(device, [&](vk::Recorder& recorder) {
            std::uint64_t at = 0;
            for (const Run& part : parts) {
                const vk::BufferRange in_pool(*part.pool, part.offset, part.bytes), staged(staging, at, part.bytes);
                if (to_device) recorder.copy(staged, in_pool);
                else recorder.copy(in_pool, staged);
                at += part.bytes;
            }
        });
        if (!to_device) on_host();
        parts.clear();
        filled = 0;
    };
    for (Run run : runs) {
        while (run.bytes > 0) {
            const std::uint64_t bytes = std::min(run.bytes, staging.bytes() - filled);
            parts.push_back({run.pool, run.offset, bytes, run.at});
            filled += bytes;
            run.offset += bytes;
            run.at += bytes;
            run.bytes -= bytes;
            if (filled == staging.bytes()) flush();
        }
    }
    if (!parts.empty()) flush();
}

[[noreturn]] void fail_io(const char* what, const std::string& path, int error) {
    throw Error(ErrorCode::kIo, fmt::format("cannot {} '{}': {}; check its path and mode, or give another name", what,
                                            safe_path(path), std::strerror(error)));
}
[[noreturn]] void no_cache(const std::string& path) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("'{}' is no prompt cache of winnow: it is left as it is, give another name", safe_path(path)));
}

// Who mistypes a name should not lose the file that has it. @returns the path.
const std::string& checked_replaceable(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ENOENT) return path;
        fail_io("write", path, errno);
    }
    struct stat status = {};
    char magic[sizeof kMagic] = {};
    const bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    const bool is_cache = is_file && (status.st_size == 0 || (pread(fd, magic, sizeof magic, 0) == sizeof magic &&
                                                              std::memcmp(magic, kMagic, sizeof magic) == 0));
    close(fd);
    if (!is_cache) no_cache(path);
    return path;
}

// A file that ends with the hash of what was written. A new one is its owner's alone: it holds a conversation.
class HashedFile {
public:
    explicit HashedFile(const std::string& path) : file_(checked_replaceable(path), 0600) {}
    void write(const void* bytes, std::size_t n) {
        hash_.add(bytes, n);
        file_.write(bytes, n);
    }
    void commit() {
        const Digest digest = hash_.digest();
        file_.write(&digest, sizeof digest);
        file_.commit();
    }

private:
    WholeFile file_;
    Hash hash_;
};

}  // namespace

std::uint32_t policy_hash(const SparsePolicy& p) {
    Hash hash;
    const auto add = [&hash](const auto&... values) { (hash.add(&values, sizeof values), ...); };
    const auto add_list = [&](const auto& list) {
        add(list.size());
        hash.add(list.data(), list.size() * sizeof list[0]);
    };
    add_list(p.name);
    add(p.levels.size(), p.layers.size());
    for (const SelectLevel& l : p.levels)
        add(l.scorer, l.unit, l.rule, l.mass, l.budget, l.budget_min, l.budget_share, l.threshold);
    add(p.pool, p.sink, p.window, p.min_ctx, p.refresh, p.cosine, p.value_skip, p.index_dim, p.index_type, p.steered);
    if (p.compensate) add(p.compensate);  // so that files of before keep their hash
    for (const LayerSchedule& layer : p.layers) {
        add(layer.kind, layer.source);
        add_list(layer.head_map);
    }
    if (p.index_maps) add_list(*p.index_maps);
    if (p.index_codes) {
        add_list(p.index_codes->bits);
        add_list(p.index_codes->curves);
    }
    return std::max(static_cast<std::uint32_t>(hash.digest()), 1u);
}

void write_cache_file(const std::string& path, vk::Device& device, const KvCache& cache, const CacheStamp& stamp,
                      std::span<const std::int32_t> tokens, const CacheHistory& history) {
    const auto n_tokens = static_cast<std::uint32_t>(tokens.size());
    if (n_tokens == 0) throw Error(ErrorCode::kInvalidArgument, "the cache is empty: there is nothing to save");
    HashedFile file(path);
    const Header header = make_header(cache, stamp, n_tokens, history);
    file.write(&header, sizeof header);
    const std::vector<std::uint32_t> words = head_words(cache, stamp);
    file.write(words.data(), words.size() * sizeof words[0]);
    file.write(tokens.data(), tokens.size_bytes());
    std::uint64_t total = 0;
    copy_runs(device, block_runs(cache, n_tokens, n_tokens, history.n_written, total), vk::BufferUse::kReadback,
              [&](const Run& part, const std::byte* staged) { file.write(staged, part.bytes); });
    file.commit();
}

CacheFile::CacheFile(const std::string& path, const KvCache& cache, const CacheStamp& stamp) : path_(path) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) fail_io("read", path, errno);
    try {
        verify(cache, stamp);
    } catch (...) {
        close(fd_);
        throw;
    }
}

CacheFile::~CacheFile() { close(fd_); }

void CacheFile::refuse(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, fmt::format("the prompt cache '{}' {}", safe_path(path_), what));
}

void CacheFile::read(std::uint64_t offset, void* to, std::size_t n_bytes) const {
    char* at = static_cast<char*>(to);
    while (n_bytes > 0) {
        const ssize_t n = pread(fd_, at, n_bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail_io("read", path_, errno);
        if (n == 0) refuse("is damaged: it ends too early");
        at += n;
        offset += static_cast<std::uint64_t>(n);
        n_bytes -= static_cast<std::size_t>(n);
    }
}

void CacheFile::verify(const KvCache& cache, const CacheStamp& stamp) {
    struct stat status = {};
    if (fstat(fd_, &status) != 0) fail_io("read", path_, errno);
    const auto n_bytes = static_cast<std::uint64_t>(status.st_size);
    Header header = {};
    if (!S_ISREG(status.st_mode) || n_bytes < sizeof kMagic) no_cache(path_);
    read(0, &header, static_cast<std::size_t>(std::min<std::uint64_t>(sizeof header, n_bytes)));
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) no_cache(path_);
    if (n_bytes < sizeof header) refuse("is damaged: it ends too early");

    // Sizes come from this session's own cache; the file only says how many tokens, and its length must be as that many
    // take.
    const Header own = make_header(cache, stamp, header.n_tokens, header.history);
    if (header.version != kVersion && header.version != kSummedVersion) refuse("is of another version of winnow");
    if (header.version != own.version)
        refuse(fmt::format("was made {} --sparse-compensation", own.version == kVersion ? "with" : "without"));
    if (std::memcmp(header.model, own.model, sizeof own.model) != 0) refuse("was made with another model");
    if (header.kv_type != own.kv_type) refuse("has another cache type (-ctk)");
    if (std::memcmp(&header, &own, sizeof own) != 0) refuse("has another cache layout");
    if (header.n_tokens == 0 || header.n_tokens > header.history.n_written || header.history.n_written > kMostTokens ||
        header.history.n_dense > header.n_tokens)
        refuse("is damaged: its number of tokens is impossible");
    const std::vector<std::uint32_t> own_words = head_words(cache, stamp);
    std::vector<std::uint32_t> words(own_words.size());
    const std::uint64_t words_end = sizeof header + words.size() * sizeof words[0];
    blocks_at_ = words_end + std::uint64_t{header.n_tokens} * sizeof(std::int32_t);
    if (n_bytes < words_end) refuse("is damaged: it ends too early");
    read(sizeof header, words.data(), words.size() * sizeof words[0]);
    if (words != own_words)
        refuse("was made with other windows or rings: --sparse, its settings, -c and -ub decide about them");
    std::uint64_t blocks_bytes = 0;
    block_runs(cache, header.n_tokens, header.n_tokens, header.history.n_written, blocks_bytes);
    if (n_bytes != blocks_at_ + blocks_bytes + sizeof(Digest))
        refuse("is damaged: its length is not what its tokens take");

    Hash hash;
    std::vector<std::byte> piece(static_cast<std::size_t>(std::min<std::uint64_t>(n_bytes, 4u << 20)));
    const std::uint64_t end = n_bytes - sizeof(Digest);
    for (std::uint64_t at = 0; at < end;) {
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), end - at));
        read(at, piece.data(), n);
        hash.add(piece.data(), n);
        at += n;
    }
    Digest digest = 0;
    read(end, &digest, sizeof digest);
    if (digest != hash.digest()) refuse("is damaged: its checksum is wrong");
    tokens_.resize(header.n_tokens);
    read(words_end, tokens_.data(), tokens_.size() * sizeof tokens_[0]);
    history_ = header.history;
}

void CacheFile::load(vk::Device& device, const KvCache& cache, std::uint32_t n) const {
    std::uint64_t total = 0;
    copy_runs(device, block_runs(cache, n, static_cast<std::uint32_t>(tokens_.size()), history_.n_written, total),
              vk::BufferUse::kUpload,
              [&](const Run& part, std::byte* staged) { read(blocks_at_ + part.at, staged, part.bytes); });
    if (cache.evicted()) cache.evicted().assume(device, cache.layout(), static_cast<std::uint32_t>(tokens_.size()));
}

}  // namespace winnow
