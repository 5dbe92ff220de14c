// SPDX-License-Identifier: Apache-2.0
// Files that are damaged or made to do harm: each is refused in one line, and nothing else happens (the asan preset
// runs this too).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "models/gguf.h"
#include "models/gguf_writer.h"
#include "models/model_config.h"
#include "runtime/io/safe_path.h"
#include "tests/support/tiny_gguf.h"

namespace winnow::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::filesystem::path scratch_path() {
    return std::filesystem::temp_directory_path() / ("winnow_hostile_" + std::to_string(::getpid()) + ".gguf");
}

// Opens a path as a model; the error text, or "" when it is accepted.
std::string refusal_at(const std::filesystem::path& path) {
    try {
        const GgufFile gguf = GgufFile::open(path);
        read_model_tensors(gguf, read_model_shape(gguf));
        return "";
    } catch (const Error& e) {
        const std::string text = e.what();
        EXPECT_EQ(e.code(), ErrorCode::kBadFile) << text;
        EXPECT_THAT(text, HasSubstr(safe_path(path)));
        EXPECT_THAT(text, HasSubstr("; ")) << "no advice";
        for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << text;  // one line, no escape sequences
        return text;
    }
}

std::string refusal(const std::vector<std::byte>& bytes, const std::filesystem::path& path = scratch_path()) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    std::string text = refusal_at(path);
    std::filesystem::remove(path);
    return text;
}

// A file written field by field, to hold what GgufWriter would never write.
struct Raw {
    std::vector<std::byte> bytes;

    template <typename T>
    Raw& put(T value) {
        const auto* p = reinterpret_cast<const std::byte*>(&value);
        bytes.insert(bytes.end(), p, p + sizeof value);
        return *this;
    }
    Raw& u32(std::uint32_t value) { return put(value); }
    Raw& u64(std::uint64_t value) { return put(value); }
    Raw& text(std::string_view value) {
        u64(value.size());
        for (const char c : value) put(c);
        return *this;
    }
    Raw& zeros(std::size_t n) {
        bytes.resize(bytes.size() + n);
        return *this;
    }
    Raw& tensor(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                std::uint64_t offset) {
        text(name).u32(static_cast<std::uint32_t>(dims.size()));
        for (const std::uint64_t d : dims) u64(d);
        return u32(type).u64(offset);
    }
};
Raw header(std::uint64_t n_tensors, std::uint64_t n_keys, std::uint32_t version = 3) {
    return Raw{}.u32(0x46554747).u32(version).u64(n_tensors).u64(n_keys);
}
// One tensor and 4 KiB of data.
Raw one_tensor(const std::vector<std::uint64_t>& dims, std::uint32_t type = 0, std::uint64_t offset = 0) {
    return header(1, 0).tensor("t", dims, type, offset).zeros(4096);
}

constexpr std::uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kString = 8, kArray = 9;
constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;

struct Hostile {
    const char* name;
    std::vector<std::byte> bytes;
    const char* expected;
};

std::vector<Hostile> hostile_headers() {
    std::vector<Hostile> cases{
        {"empty file", {}, "too short"},
        {"one byte", Raw{}.put('G').bytes, "too short"},
        {"another format", Raw{}.u32(0x04034b50).zeros(100).bytes, "begin with 'GGUF'"},
        {"version 1", header(0, 0, 1).bytes, "version is 1"},
        {"version 4", header(0, 0, 4).bytes, "version is 4"},
        {"big-endian", header(0, 0, 0x03000000).bytes, "big-endian"},
        {"tensors without end", header(kHuge, 0).zeros(100).bytes, "1152921504606846976 tensors"},
        {"keys without end", header(0, kHuge).zeros(100).bytes, "1152921504606846976 metadata keys"},
        {"more tensors than bytes", header(1000, 0).zeros(100).bytes, "1000 tensors, more than it holds"},
        {"more keys than bytes", header(0, 1000).zeros(100).bytes, "1000 metadata keys, more than it holds"},
        {"key length 2^63", header(0, 1).u64(std::uint64_t{1} << 63).zeros(100).bytes, "string runs past its end"},
        {"key length 2^64 - 1", header(0, 1).u64(~std::uint64_t{0}).zeros(100).bytes, "string runs past its end"},
        {"string one byte too long", header(0, 1).text("k").u32(kString).u64(5).zeros(4).bytes, "string runs past"},
        {"value type", header(0, 1).text("k").u32(13).zeros(100).bytes, "'k' has the unknown value type 13"},
        {"value cut off", header(0, 1).text("key 12345").u32(10).zeros(4).bytes, "inside its header"},
        {"array of arrays", header(0, 1).text("k").u32(kArray).u32(kArray).u64(1).zeros(100).bytes,
         "'k' holds values of type 9"},
        {"array of an unknown type", header(0, 1).text("k").u32(kArray).u32(77).u64(1).zeros(100).bytes, "type 77"},
        {"bytes without end", header(0, 1).text("k").u32(kArray).u32(kU8).u64(kHuge).zeros(100).bytes,
         "1152921504606846976 elements, more than"},
        {"strings without end", header(0, 1).text("k").u32(kArray).u32(kString).u64(kHuge).zeros(100).bytes,
         "1152921504606846976 elements, more than"},
        {"count x size overflows", header(0, 1).text("k").u32(kArray).u32(10).u64((kHuge << 1) + 1).zeros(100).bytes,
         "elements, more than"},
        {"array element cut off",
         header(0, 1).text("k").u32(kArray).u32(kString).u64(2).text("a").u64(9).zeros(8).bytes,
         "string runs past its end"},
        {"key twice", header(0, 2).text("k").u32(kU32).u32(1).text("k").u32(kU32).u32(1).zeros(32).bytes,
         "'k' appears twice"},
        {"terminal escape in a key", header(0, 1).text("\x1b[31m\n\xff.").u32(99).zeros(100).bytes, "'?[31m"},
        {"split model", header(0, 1).text("split.count").u32(kU32).u32(3).zeros(32).bytes, "3 parts of a split model"},
        {"alignment is a string", header(0, 1).text("general.alignment").u32(kString).text("x").zeros(32).bytes,
         "not a non-negative integer"},
        {"alignment is negative", header(0, 1).text("general.alignment").u32(kI32).u32(~0u).zeros(32).bytes,
         "not a non-negative integer"},
    };
    for (const std::uint32_t alignment : {0u, 1u, 2u, 4u, 24u, 1u << 31})
        cases.push_back({"alignment", header(0, 1).text("general.alignment").u32(kU32).u32(alignment).zeros(32).bytes,
                         "general.alignment is"});
    return cases;
}

std::vector<Hostile> hostile_tensors() {
    return {
        {"no dimensions", one_tensor({}).bytes, "0 dimensions"},
        {"five dimensions", one_tensor({1, 1, 1, 1, 1}).bytes, "5 dimensions"},
        {"dimensions without end", header(1, 0).text("t").u32(~0u).zeros(100).bytes, "4294967295 dimensions"},
        {"dimension 0", one_tensor({0}).bytes, "impossible size"},
        {"later dimension 0", one_tensor({32, 4, 0}).bytes, "impossible size"},
        {"product wraps to 0", one_tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}).bytes, "impossible size"},
        {"product wraps to 32", one_tensor({32, (std::uint64_t{1} << 59) + 1}).bytes, "impossible size"},
        {"dimension 2^63", one_tensor({std::uint64_t{1} << 63}).bytes, "impossible size"},
        {"part of a block", one_tensor({33}, 2).bytes, "33 columns, no multiple of the 32 of a Q4_0 block"},
        {"part of a large block", one_tensor({128}, 14).bytes, "no multiple of the 256 of a Q6_K block"},
        {"Q2_K", one_tensor({256}, 10).bytes, "of type Q2_K"},
        {"IQ1_M", one_tensor({256}, 29).bytes, "of type IQ1_M"},
        {"a withdrawn type", one_tensor({256}, 4).bytes, "of type number 4"},
        {"no type", one_tensor({256}, 4000000000).bytes, "of type number 4000000000"},
        {"offset not aligned", one_tensor({4}, 0, 16).bytes, "not aligned to 32 bytes"},
        {"offset not aligned to the file's own",
         header(1, 1).text("general.alignment").u32(kU32).u32(64).tensor("t", {4}, 0, 32).zeros(4096).bytes,
         "not aligned to 64 bytes"},
        {"offset past the end", one_tensor({4}, 0, 8192).bytes, "'t' runs past its end"},
        {"offset wraps", one_tensor({1024}, 0, ~std::uint64_t{31}).bytes, "'t' runs past its end"},
        {"data one block short", one_tensor({32, 228}, 2).bytes, "'t' runs past its end"},
        {"much too large", one_tensor({1024, std::uint64_t{1} << 30}).bytes, "'t' runs past its end"},
        {"no data at all", header(1, 0).tensor("t", {4}, 0, 0).bytes, "'t' runs past its end"},
        {"name twice", header(2, 0).tensor("t", {4}, 0, 0).tensor("t", {4}, 0, 32).zeros(128).bytes,
         "'t' appears twice"},
        {"name length 2^63", header(1, 0).u64(std::uint64_t{1} << 63).zeros(100).bytes, "string runs past its end"},
        {"terminal escape in a name", header(1, 0).tensor("\x1b]0;", {4}, 99, 0).zeros(64).bytes, "'?]0;'"},
    };
}

TEST(GgufHostile, Headers) {
    for (const Hostile& c : hostile_headers()) EXPECT_THAT(refusal(c.bytes), HasSubstr(c.expected)) << c.name;
}

TEST(GgufHostile, Tensors) {
    for (const Hostile& c : hostile_tensors()) EXPECT_THAT(refusal(c.bytes), HasSubstr(c.expected)) << c.name;
}

// The limits are not off by one: what just fits is let through to the next check.
TEST(GgufHostile, TheBordersAreAccepted) {
    const char* const later = "lacks the metadata key 'general.architecture'";
    EXPECT_THAT(refusal(header(0, 0).bytes), HasSubstr(later));
    EXPECT_THAT(refusal(header(0, 0, 2).bytes), HasSubstr(later));
    EXPECT_THAT(refusal(header(0, 1).text("").u32(kU8).put(std::uint8_t{1}).bytes), HasSubstr(later));
    EXPECT_THAT(refusal(header(0, 1).text("k").u32(kArray).u32(kU8).u64(0).bytes), HasSubstr(later));
    EXPECT_THAT(refusal(header(0, 1).text("general.alignment").u32(kU32).u32(8).bytes), HasSubstr(later));
    Raw full = header(1, 0).tensor("t", {4, 8}, 0, 32);
    full.zeros((32 - full.bytes.size() % 32) % 32 + 32 + 128);
    EXPECT_THAT(refusal(full.bytes), HasSubstr(later));
    full.bytes.pop_back();
    EXPECT_THAT(refusal(full.bytes), HasSubstr("'t' runs past its end"));
}

// Arrays grow in memory (a byte becomes 8): there is a bound for what a file that does hold them can make of it.
TEST(GgufHostile, ArraysAreBounded) {
    const std::uint64_t n = (std::uint64_t{1} << 24) + 1;
    EXPECT_THAT(refusal(header(0, 1).text("k").u32(kArray).u32(kU8).u64(n).zeros(n).bytes),
                HasSubstr("16777217 elements"));
}

TEST(GgufHostile, WhatIsNoFile) {
    EXPECT_THAT(refusal_at("/nonexistent/model.gguf"), HasSubstr("No such file"));
    EXPECT_THAT(refusal_at(std::filesystem::temp_directory_path()), HasSubstr("not a regular file"));
    EXPECT_THAT(refusal_at("/dev/zero"), HasSubstr("not a regular file"));
    const auto pipe = scratch_path();
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    EXPECT_THAT(refusal_at(pipe), HasSubstr("not a regular file"));  // and is not waited for
    std::filesystem::remove(pipe);
}

// A name can be hostile as well: no control character of it gets out at any stage (refusal_at checks that).
TEST(GgufHostile, EscapesInThePath) {
    const auto path = scratch_path().parent_path() / ("winnow_\x1b[31m\n\x7f_" + std::to_string(::getpid()) + ".gguf");
    const char* const shown = "winnow_?[31m??_";
    EXPECT_EQ(safe_path("a\xc3\xa9 b.gguf"), "a\xc3\xa9 b.gguf");  // UTF-8 stays
    EXPECT_THAT(refusal_at(path), AllOf(HasSubstr(shown), HasSubstr("No such file")));
    EXPECT_THAT(refusal({}, path), AllOf(HasSubstr(shown), HasSubstr("too short")));
    EXPECT_THAT(refusal(header(0, 0, 9).bytes, path), AllOf(HasSubstr(shown), HasSubstr("version is 9")));
    EXPECT_THAT(refusal(header(0, 0).bytes, path), AllOf(HasSubstr(shown), HasSubstr("lacks the metadata key")));
    GgufWriter w;
    w.add_string("general.architecture", "mamba");
    EXPECT_THAT(refusal(w.bytes(), path), AllOf(HasSubstr(shown), HasSubstr("'mamba' is not supported")));
}

TEST(GgufHostile, ModelsThatAreNone) {
    const auto with = [](const std::function<void(GgufWriter&)>& build) {
        GgufWriter w;
        build(w);
        return refusal(w.bytes());
    };
    EXPECT_THAT(with([](GgufWriter& w) { w.add_uint("general.architecture", 1); }), HasSubstr("is not a string"));
    EXPECT_THAT(with([](GgufWriter& w) { w.add_string("general.architecture", "mamba"); }),
                HasSubstr("'mamba' is not supported, known are llama, gemma3"));
    EXPECT_THAT(
        with([](GgufWriter& w) { w.add_string("general.architecture", "a\nb\x1b[0m" + std::string(1000, 'c')); }),
        HasSubstr("'a?b?[0mccc"));
    EXPECT_THAT(with([](GgufWriter& w) { w.add_string("general.architecture", "llama"); }),
                HasSubstr("llama.block_count"));
}

TEST(GgufHostile, EveryTruncationIsRefused) {
    TinyOptions small;
    small.n_layers = 1;
    const std::vector<std::byte> good = make_tiny_gguf(small);
    ASSERT_EQ(refusal(good), "");
    // Byte by byte through the header's first and last parts, in strides elsewhere. The last tensor's padding may go.
    for (std::size_t n = 0; n + 32 < good.size(); n += n < 1500 ? 1 : 97) {
        const std::string text = refusal({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(n)});
        EXPECT_TRUE(text.find("truncated") != std::string::npos) << n << " bytes: " << text;
    }
}

// Every damaged file is either still a model or refused.
TEST(GgufHostile, RandomDamage) {
    std::mt19937 random(static_cast<unsigned>(::testing::UnitTest::GetInstance()->random_seed()) + 1);
    for (const char* architecture : {"llama", "gemma3"}) {
        TinyOptions small;
        small.architecture = architecture;
        small.n_layers = 1;
        const std::vector<std::byte> good = make_tiny_gguf(small);
        // The weights are not interpreted on opening: most flips go where the metadata and the tensor entries are.
        small.vocabulary_only = true;
        const std::size_t n_header = make_tiny_gguf(small).size() + 600;
        ASSERT_LT(n_header, good.size());
        int n_refused = 0;
        for (int i = 0; i < 2000; ++i) {
            std::vector<std::byte> bytes = good;
            const int n_flips = 1 + static_cast<int>(random() % 4);
            for (int f = 0; f < n_flips; ++f) {
                const std::size_t at = random() % (random() % 8 == 0 ? bytes.size() : n_header);
                bytes[at] ^= static_cast<std::byte>(1u << (random() % 8));
            }
            if (random() % 16 == 0) bytes.resize(random() % bytes.size());
            n_refused += refusal(bytes).empty() ? 0 : 1;
        }
        EXPECT_GT(n_refused, 200) << architecture << ": the damage misses what is read";
    }
}

}  // namespace
}  // namespace winnow::test
