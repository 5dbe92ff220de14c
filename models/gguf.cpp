// SPDX-License-Identifier: Apache-2.0
#include "models/gguf.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <tuple>
#include <utility>

#include "runtime/io/safe_path.h"

namespace winnow {
namespace {

struct TypeRow {
    WeightType type;
    const char* name;
    BlockFormat format;
};
constexpr std::array<TypeRow, 11> kTypes{{
    {WeightType::kF32, "F32", {1, 4}},
    {WeightType::kF16, "F16", {1, 2}},
    {WeightType::kBF16, "BF16", {1, 2}},
    {WeightType::kQ4_0, "Q4_0", {32, 18}},
    {WeightType::kQ4_1, "Q4_1", {32, 20}},
    {WeightType::kQ5_0, "Q5_0", {32, 22}},
    {WeightType::kQ5_1, "Q5_1", {32, 24}},
    {WeightType::kQ8_0, "Q8_0", {32, 34}},
    {WeightType::kQ4_K, "Q4_K", {256, 144}},
    {WeightType::kQ5_K, "Q5_K", {256, 176}},
    {WeightType::kQ6_K, "Q6_K", {256, 210}},
}};

const TypeRow* find_type(WeightType type) {
    for (const TypeRow& row : kTypes)
        if (row.type == type) return &row;
    return nullptr;
}

// Names of types that exist but are not supported, so that a refusal is useful.
std::string foreign_type_name(std::uint32_t id) {
    static constexpr std::array<std::pair<std::uint32_t, const char*>, 23> names{
        {{9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
         {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
         {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
         {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},  {40, "NVFP4"}, {41, "Q1_0"}}};
    for (const auto& [known, name] : names)
        if (known == id) return name;
    return fmt::format("number {}", id);
}

enum ValueType : std::uint32_t {
    kU8 = 0,
    kI8,
    kU16,
    kI16,
    kU32,
    kI32,
    kFloat32,
    kBool,
    kString,
    kArray,
    kU64,
    kI64,
    kFloat64
};

// Bytes of a fixed-size value, 0 for strings, arrays and unknown ids.
std::uint64_t value_bytes(std::uint32_t type) {
    static constexpr std::array<std::uint8_t, 13> bytes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < bytes.size() ? bytes[type] : 0;
}

// Far above any real model: what a small file can make us allocate stays small.
constexpr std::uint64_t kMaxCount = 1u << 16;     // tensors, keys
constexpr std::uint64_t kMaxElements = 1u << 24;  // of all arrays together; widening makes up to 16 bytes of one

constexpr const char* kDamaged = "download it again or choose another";

// Walks the header; every read is checked against the end of the file.
class Reader {
public:
    Reader(const std::byte* data, std::uint64_t size, const std::string& file)
        : data_(data), size_(size), file_(file) {}

    [[noreturn]] void fail(const std::string& what, const char* advice = kDamaged) const {
        throw Error(ErrorCode::kBadFile, fmt::format("'{}' is not a usable GGUF file: {}; {}", file_, what, advice));
    }
    std::uint64_t at() const { return at_; }
    std::uint64_t left() const { return size_ - at_; }

    template <typename T>
    T number() {
        if (left() < sizeof(T)) fail("it ends inside its header (truncated)");
        T value;
        std::memcpy(&value, data_ + at_, sizeof(T));
        at_ += sizeof(T);
        return value;
    }
    std::string_view string() {
        const auto length = number<std::uint64_t>();
        if (length > left()) fail("a string runs past its end (truncated or damaged)");
        const std::string_view text(reinterpret_cast<const char*>(data_ + at_), length);
        at_ += length;
        return text;
    }

    std::int64_t integer(std::uint32_t type) {
        switch (type) {
            case kU8: return number<std::uint8_t>();
            case kI8: return number<std::int8_t>();
            case kU16: return number<std::uint16_t>();
            case kI16: return number<std::int16_t>();
            case kU32: return number<std::uint32_t>();
            case kI32: return number<std::int32_t>();
            case kBool: return number<std::uint8_t>() != 0;
            default: return number<std::int64_t>();
        }
    }
    double real(std::uint32_t type) { return type == kFloat32 ? number<float>() : number<double>(); }

    GgufValue value(std::uint32_t type, std::string_view key) {
        switch (type) {
            case kU8:
            case kU16:
            case kU32: return static_cast<std::uint64_t>(integer(type));
            case kU64: return number<std::uint64_t>();
            case kI8:
            case kI16:
            case kI32:
            case kI64: return integer(type);
            case kFloat32:
            case kFloat64: return real(type);
            case kBool: return integer(type) != 0;
            case kString: return string();
            case kArray: return array(key);
            default: fail(fmt::format("key '{}' has the unknown value type {}", safe_excerpt(key), type));
        }
    }

private:
    GgufArray array(std::string_view key) {
        const auto type = number<std::uint32_t>();
        const auto n = number<std::uint64_t>();
        const std::uint64_t least = type == kString ? 8 : value_bytes(type);
        if (least == 0) fail(fmt::format("array '{}' holds values of type {}", safe_excerpt(key), type));
        if (n > left() / least)
            fail(fmt::format("array '{}' claims {} elements, more than the file holds (truncated or damaged)",
                             safe_excerpt(key), n));
        if (n > kMaxElements - n_elements_)
            fail(fmt::format("array '{}' has {} elements, all arrays together may have {}", safe_excerpt(key), n,
                             kMaxElements));
        n_elements_ += n;
        GgufArray values;
        if (type == kString) {
            values.strings.reserve(n);
            for (std::uint64_t i = 0; i < n; ++i) values.strings.push_back(string());
        } else if (type == kFloat32 || type == kFloat64) {
            values.floats.reserve(n);
            for (std::uint64_t i = 0; i < n; ++i) values.floats.push_back(real(type));
        } else {
            values.integers.reserve(n);
            for (std::uint64_t i = 0; i < n; ++i) values.integers.push_back(integer(type));
        }
        return values;
    }

    const std::byte* data_;
    std::uint64_t size_;
    std::uint64_t at_ = 0;
    std::uint64_t n_elements_ = 0;
    const std::string& file_;
};

// Maps the file read-only. The descriptor is closed: the mapping keeps the file.
std::pair<const std::byte*, std::uint64_t> map_file(const std::filesystem::path& path) {
    const std::string name = path.string();
    const int fd = ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is refused, not waited for
    if (fd < 0)
        throw Error(ErrorCode::kBadFile, fmt::format("cannot open model '{}': {}; check the path after -m",
                                                     safe_path(path), std::strerror(errno)));
    struct stat info {};
    std::string problem;
    void* data = MAP_FAILED;
    if (::fstat(fd, &info) != 0) problem = std::strerror(errno);
    else if (!S_ISREG(info.st_mode)) problem = "it is not a regular file";
    else if (info.st_size < 24) problem = "it is too short for a header (truncated)";
    else {
        data = ::mmap(nullptr, static_cast<std::size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) problem = std::strerror(errno);
    }
    ::close(fd);
    if (!problem.empty())
        throw Error(ErrorCode::kBadFile,
                    fmt::format("'{}' is not a usable GGUF file: {}; {}", safe_path(path), problem, kDamaged));
    return {static_cast<const std::byte*>(data), static_cast<std::uint64_t>(info.st_size)};
}

}  // namespace

std::string safe_excerpt(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 80)) out += c >= ' ' && c <= '~' ? c : '?';
    return out;
}

std::uint64_t GgufTensor::n_rows() const {
    std::uint64_t rows = 1;
    for (std::size_t i = 1; i < dims.size(); ++i) rows *= dims[i];
    return rows;
}

GgufFile GgufFile::open(const std::filesystem::path& path) {
    GgufFile file;
    file.path_ = path;
    std::tie(file.data_, file.size_) = map_file(path);
    const std::string name = safe_path(path);
    Reader in(file.data_, file.size_, name);

    if (in.number<std::uint32_t>() != 0x46554747)  // "GGUF"
        in.fail("it does not begin with 'GGUF'");
    file.version_ = in.number<std::uint32_t>();
    if (file.version_ != 2 && file.version_ != 3) {
        const std::uint32_t swapped = __builtin_bswap32(file.version_);
        if (swapped == 2 || swapped == 3)
            in.fail("it is big-endian, which winnow does not read", "choose a little-endian one");
        in.fail(fmt::format("its version is {}, winnow reads 2 and 3", file.version_), "choose one of these versions");
    }
    const auto n_tensors = in.number<std::uint64_t>();
    const auto n_keys = in.number<std::uint64_t>();
    // The smallest key takes 13 bytes, the smallest tensor entry 32.
    const auto check_count = [&](std::uint64_t n, std::uint64_t least_bytes, const char* things) {
        if (n > kMaxCount) in.fail(fmt::format("it claims {} {} (damaged)", n, things));
        if (n > in.left() / least_bytes)
            in.fail(fmt::format("it claims {} {}, more than it holds (truncated or damaged)", n, things));
    };
    check_count(n_keys, 13, "metadata keys");
    check_count(n_tensors, 32, "tensors");

    for (std::uint64_t i = 0; i < n_keys; ++i) {
        const std::string_view key = in.string();
        const auto type = in.number<std::uint32_t>();
        if (!file.metadata_.emplace(std::string(key), in.value(type, key)).second)
            in.fail(fmt::format("metadata key '{}' appears twice", safe_excerpt(key)));
    }
    const std::uint64_t alignment = file.find_uint("general.alignment").value_or(32);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > (1u << 20))
        in.fail(fmt::format("general.alignment is {}, no power of two from 8 to {}", alignment, 1u << 20));
    if (const std::uint64_t n_parts = file.find_uint("split.count").value_or(1); n_parts > 1)
        in.fail(fmt::format("it is one of the {} parts of a split model, which winnow does not read", n_parts),
                "merge them first (llama-gguf-split --merge)");

    std::vector<std::uint64_t> offsets;
    file.tensors_.reserve(n_tensors);
    for (std::uint64_t i = 0; i < n_tensors; ++i) {
        GgufTensor t;
        t.name = in.string();
        const std::string shown = safe_excerpt(t.name);
        const auto n_dims = in.number<std::uint32_t>();
        if (n_dims < 1 || n_dims > 4) in.fail(fmt::format("tensor '{}' has {} dimensions", shown, n_dims));
        std::uint64_t elements = 1;
        for (std::uint32_t d = 0; d < n_dims; ++d) {
            t.dims.push_back(in.number<std::uint64_t>());
            if (t.dims.back() == 0 || t.dims.back() > (std::uint64_t{1} << 40) / elements)
                in.fail(fmt::format("tensor '{}' has an impossible size", shown));
            elements *= t.dims.back();
        }
        const auto type = in.number<std::uint32_t>();
        const TypeRow* row = find_type(static_cast<WeightType>(type));
        if (row == nullptr)
            in.fail(
                fmt::format("tensor '{}' is of type {}, which winnow does not support", shown, foreign_type_name(type)),
                "choose another quantisation, such as Q4_K_M or Q8_0");
        t.type = row->type;
        if (t.dims[0] % row->format.weights != 0)
            in.fail(fmt::format("tensor '{}' has {} columns, no multiple of the {} of a {} block", shown, t.dims[0],
                                row->format.weights, row->name));
        offsets.push_back(in.number<std::uint64_t>());
        if (offsets.back() % alignment != 0)
            in.fail(fmt::format("tensor '{}' is not aligned to {} bytes", shown, alignment));
        file.tensors_.push_back(std::move(t));
    }
    const std::uint64_t data_start = (in.at() + alignment - 1) / alignment * alignment;
    for (std::size_t i = 0; i < file.tensors_.size(); ++i) {
        GgufTensor& t = file.tensors_[i];
        const std::uint64_t bytes = row_bytes(t.type, t.dims[0]) * t.n_rows();
        if (data_start > file.size_ || offsets[i] > file.size_ - data_start ||
            bytes > file.size_ - data_start - offsets[i])
            in.fail(fmt::format("tensor '{}' runs past its end (truncated)", safe_excerpt(t.name)));
        t.bytes = {file.data_ + data_start + offsets[i], bytes};
        if (!file.by_name_.emplace(t.name, i).second)
            in.fail(fmt::format("tensor '{}' appears twice", safe_excerpt(t.name)));
    }
    return file;
}

GgufFile::~GgufFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

GgufFile::GgufFile(GgufFile&& other) noexcept { *this = std::move(other); }

GgufFile& GgufFile::operator=(GgufFile&& other) noexcept {
    if (this != &other) {
        path_.swap(other.path_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(version_, other.version_);
        metadata_.swap(other.metadata_);
        tensors_.swap(other.tensors_);
        by_name_.swap(other.by_name_);
    }
    return *this;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
    const auto at = by_name_.find(name);
    return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
    const GgufTensor* t = find(name);
    if (t == nullptr)
        throw Error(ErrorCode::kBadFile, fmt::format("'{}' has no tensor '{}'; {}", safe_path(path_), name, kDamaged));
    return *t;
}

namespace {
[[noreturn]] void wrong_type(const std::filesystem::path& path, std::string_view key, const char* wanted) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("'{}': metadata key '{}' is not {}; {}", safe_path(path), key, wanted, kDamaged));
}
[[noreturn]] void missing_key(const std::filesystem::path& path, std::string_view key) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("'{}' lacks the metadata key '{}'; {}", safe_path(path), key, kDamaged));
}
}  // namespace

std::optional<std::uint64_t> GgufFile::find_uint(std::string_view key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return std::nullopt;
    if (const auto* u = std::get_if<std::uint64_t>(&at->second)) return *u;
    const auto* i = std::get_if<std::int64_t>(&at->second);
    if (i == nullptr || *i < 0) wrong_type(path_, key, "a non-negative integer");
    return static_cast<std::uint64_t>(*i);
}

std::optional<double> GgufFile::find_float(std::string_view key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return std::nullopt;
    if (const auto* d = std::get_if<double>(&at->second)) return *d;
    if (const auto* u = std::get_if<std::uint64_t>(&at->second)) return static_cast<double>(*u);
    if (const auto* i = std::get_if<std::int64_t>(&at->second)) return static_cast<double>(*i);
    wrong_type(path_, key, "a number");
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return std::nullopt;
    if (const auto* b = std::get_if<bool>(&at->second)) return *b;
    wrong_type(path_, key, "a bool");
}

std::optional<std::string_view> GgufFile::find_string(std::string_view key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return std::nullopt;
    if (const auto* s = std::get_if<std::string_view>(&at->second)) return *s;
    wrong_type(path_, key, "a string");
}

const GgufArray* GgufFile::find_array(std::string_view key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return nullptr;
    const auto* a = std::get_if<GgufArray>(&at->second);
    if (a == nullptr) wrong_type(path_, key, "an array");
    return a;
}

std::uint64_t GgufFile::get_uint(std::string_view key) const {
    if (const auto v = find_uint(key)) return *v;
    missing_key(path_, key);
}
double GgufFile::get_float(std::string_view key) const {
    if (const auto v = find_float(key)) return *v;
    missing_key(path_, key);
}
std::string_view GgufFile::get_string(std::string_view key) const {
    if (const auto v = find_string(key)) return *v;
    missing_key(path_, key);
}

BlockFormat block_format(WeightType type) {
    const TypeRow* row = find_type(type);
    if (row == nullptr) throw Error(ErrorCode::kInternal, "unknown weight type");
    return row->format;
}

const char* type_name(WeightType type) {
    const TypeRow* row = find_type(type);
    return row == nullptr ? "?" : row->name;
}

std::optional<WeightType> weight_type_from_name(std::string_view name) {
    for (const TypeRow& row : kTypes) {
        const std::string_view known = row.name;
        if (std::equal(known.begin(), known.end(), name.begin(), name.end(),
                       [](char a, char b) { return a == std::toupper(static_cast<unsigned char>(b)); }))
            return row.type;
    }
    return std::nullopt;
}

std::uint64_t row_bytes(WeightType type, std::uint64_t n) {
    const BlockFormat f = block_format(type);
    if (n % f.weights != 0)
        throw Error(ErrorCode::kBadFile,
                    fmt::format("a row of {} weights is no multiple of a {} block", n, type_name(type)));
    return n / f.weights * f.bytes;
}

}  // namespace winnow
