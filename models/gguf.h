// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "winnow/error.h"
#include "winnow/types.h"

namespace winnow {

/// A metadata value of a GGUF file. Integers of all widths become int64/uint64, floats double.
struct GgufArray;
using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, GgufArray>;

/// Array metadata. Strings are views into the mapped file; numbers are widened.
struct GgufArray {
    std::vector<std::string_view> strings;
    std::vector<std::int64_t> integers;  ///< also bools
    std::vector<double> floats;
    std::size_t size() const { return strings.size() + integers.size() + floats.size(); }
};

/// One tensor of the file. `dims[0]` runs fastest: a linear layer is [n_in, n_out].
struct GgufTensor {
    std::string_view name;
    WeightType type = WeightType::kF32;
    std::vector<std::uint64_t> dims;   ///< 1 to 4, none zero
    std::span<const std::byte> bytes;  ///< view into the mapped file
    std::uint64_t n_in() const { return dims.empty() ? 0 : dims[0]; }
    std::uint64_t n_rows() const;  ///< product of the other dims
};

/// A GGUF v2 or v3 file, memory mapped read-only. Everything is checked on opening: counts, string and
/// tensor bounds, offsets, alignment, duplicate names, block multiples, overflow. Views stay valid as long as the
/// file object lives (moving it keeps them valid).
class GgufFile {
public:
    /// @throws Error(kBadFile) in one line that names the file and what is wrong with it
    /// (missing, not GGUF, big-endian, unsupported version, truncated, unknown tensor type by name, ...).
    static GgufFile open(const std::filesystem::path& path);
    ~GgufFile();
    GgufFile(GgufFile&& other) noexcept;
    GgufFile& operator=(GgufFile&& other) noexcept;
    GgufFile(const GgufFile&) = delete;
    GgufFile& operator=(const GgufFile&) = delete;

    const std::filesystem::path& path() const { return path_; }
    std::uint64_t file_bytes() const { return size_; }
    std::uint32_t version() const { return version_; }
    const std::vector<GgufTensor>& tensors() const { return tensors_; }
    const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }

    const GgufTensor* find(std::string_view name) const;    ///< nullptr when absent
    const GgufTensor& tensor(std::string_view name) const;  ///< @throws Error(kBadFile) naming it

    // Typed metadata; the optional forms give nullopt when the key is absent and throw
    // Error(kBadFile) when it is there with another type or out of range.
    std::optional<std::uint64_t> find_uint(std::string_view key) const;
    std::optional<double> find_float(std::string_view key) const;  ///< integers are accepted
    std::optional<bool> find_bool(std::string_view key) const;
    std::optional<std::string_view> find_string(std::string_view key) const;
    const GgufArray* find_array(std::string_view key) const;
    std::uint64_t get_uint(std::string_view key) const;  ///< @throws Error(kBadFile) when absent
    double get_float(std::string_view key) const;
    std::string_view get_string(std::string_view key) const;

private:
    GgufFile() = default;
    std::filesystem::path path_;
    const std::byte* data_ = nullptr;
    std::uint64_t size_ = 0;
    std::uint32_t version_ = 0;
    std::map<std::string, GgufValue, std::less<>> metadata_;
    std::vector<GgufTensor> tensors_;
    std::map<std::string_view, std::size_t> by_name_;
};

/// Text from a file, fit for a message: at most 80 characters, '?' for what is not printable ASCII.
std::string safe_excerpt(std::string_view text);

/// Weights per block and bytes per block of a storage type (ggml's block formats).
struct BlockFormat {
    std::uint32_t weights;
    std::uint32_t bytes;
};
BlockFormat block_format(WeightType type);
const char* type_name(WeightType type);                                  ///< "Q4_K"
std::optional<WeightType> weight_type_from_name(std::string_view name);  ///< case-insensitive
/// Bytes of a row of n weights. @throws Error(kBadFile) when n is no multiple of the block.
std::uint64_t row_bytes(WeightType type, std::uint64_t n);

}  // namespace winnow
