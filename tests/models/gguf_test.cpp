// SPDX-License-Identifier: Apache-2.0
#include "models/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "models/gguf_writer.h"
#include "models/model_config.h"
#include "models/tiny.h"

namespace winnow::test {
namespace {

class TemporaryFile {
public:
    explicit TemporaryFile(const std::vector<std::byte>& bytes)
        : path_(std::filesystem::temp_directory_path() /
                ("winnow_gguf_" + std::to_string(::getpid()) + "_" + std::to_string(counter_++) + ".gguf")) {
        std::ofstream out(path_, std::ios::binary);
        out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    }
    ~TemporaryFile() { std::filesystem::remove(path_); }
    const std::filesystem::path& path() const { return path_; }

private:
    static inline int counter_ = 0;
    std::filesystem::path path_;
};

// Opens the bytes as a model; the error text, or "" when they are accepted.
std::string refusal(const std::vector<std::byte>& bytes) {
    const TemporaryFile file(bytes);
    try {
        const GgufFile gguf = GgufFile::open(file.path());
        const ModelShape shape = read_model_shape(gguf);
        read_model_tensors(gguf, shape);
        return "";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::kBadFile) << e.what();
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
        return e.what();
    }
}

template <typename T>
void poke(std::vector<std::byte>& bytes, std::size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

TEST(Gguf, RoundTrip) {
    GgufWriter w;
    w.add_uint("a.uint", 7);
    w.add_float("a.float", 0.5f);
    w.add_bool("a.bool", true);
    w.add_string("a.string", "text");
    w.add_strings("a.strings", {"x", "", "yz"});
    w.add_ints("a.ints", {-1, 2});
    w.add_floats("a.floats", {1.5f});
    const std::vector<float> values{1, 2, 3, 4, 5, 6};
    w.add_tensor("t", WeightType::kF32, {3, 2}, std::as_bytes(std::span(values)));
    const TemporaryFile file(w.bytes());
    GgufFile gguf = GgufFile::open(file.path());
    const GgufFile moved = std::move(gguf);
    EXPECT_EQ(moved.get_uint("a.uint"), 7u);
    EXPECT_EQ(moved.get_float("a.float"), 0.5);
    EXPECT_EQ(moved.find_bool("a.bool"), true);
    EXPECT_EQ(moved.get_string("a.string"), "text");
    EXPECT_EQ(moved.find_array("a.strings")->strings.at(2), "yz");
    EXPECT_EQ(moved.find_array("a.ints")->integers.at(0), -1);
    EXPECT_EQ(moved.find_array("a.floats")->floats.at(0), 1.5);
    EXPECT_FALSE(moved.find_uint("absent").has_value());
    EXPECT_THROW(moved.find_uint("a.string"), Error);
    EXPECT_THROW(moved.get_uint("absent"), Error);
    const GgufTensor& t = moved.tensor("t");
    EXPECT_EQ(t.n_in(), 3u);
    EXPECT_EQ(t.n_rows(), 2u);
    EXPECT_EQ(std::memcmp(t.bytes.data(), values.data(), 24), 0);
    EXPECT_THROW(moved.tensor("absent"), Error);
}

TEST(Gguf, TinyModelsOfEveryTypeAreAccepted) {
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16, WeightType::kQ4_0, WeightType::kQ4_1,
                                  WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ4_K,
                                  WeightType::kQ5_K, WeightType::kQ6_K}) {
        for (const char* architecture : {"llama", "gemma3"}) {
            TinyOptions o;
            o.architecture = architecture;
            o.type = type;
            if (block_format(type).weights == 256) {
                o.n_embd = o.n_ff = 256;
                o.n_heads = 8;
            }
            EXPECT_EQ(refusal(make_tiny_gguf(o)), "") << type_name(type) << " " << architecture;
        }
    }
}

struct Hostile {
    const char* name;
    std::function<void(std::vector<std::byte>&)> damage;
    const char* expected;
};

TEST(Gguf, HostileFilesAreRefusedInOneLine) {
    const std::vector<std::byte> good = make_tiny_gguf();
    const std::vector<Hostile> cases{
        {"empty", [](auto& b) { b.clear(); }, "too short"},
        {"magic", [](auto& b) { b[0] = std::byte{'X'}; }, "GGUF"},
        {"version 1", [](auto& b) { poke<std::uint32_t>(b, 4, 1); }, "version is 1"},
        {"big-endian", [](auto& b) { poke<std::uint32_t>(b, 4, 0x03000000); }, "big-endian"},
        {"tensor count", [](auto& b) { poke<std::uint64_t>(b, 8, 1ull << 60); }, "tensors"},
        {"key count", [](auto& b) { poke<std::uint64_t>(b, 16, 1ull << 60); }, "keys"},
        {"string length", [](auto& b) { poke<std::uint64_t>(b, 24, ~0ull); }, "string"},
        {"value type", [](auto& b) { poke<std::uint32_t>(b, 24 + 8 + 20, 99); }, "value type"},
        {"truncated header", [](auto& b) { b.resize(600); }, "truncated"},
        {"truncated data", [](auto& b) { b.resize(b.size() - 4096); }, "truncated"},
    };
    for (const Hostile& c : cases) {
        std::vector<std::byte> bytes = good;
        c.damage(bytes);
        EXPECT_NE(refusal(bytes).find(c.expected), std::string::npos) << c.name << ": " << refusal(bytes);
    }
    EXPECT_THROW(GgufFile::open("/nonexistent/model.gguf"), Error);
    EXPECT_THROW(GgufFile::open("/"), Error);
}

// A file made by hand, to hold what the writer would never write.
std::string refusal_of(const std::function<void(GgufWriter&)>& build) {
    GgufWriter w;
    build(w);
    return refusal(w.bytes());
}

TEST(Gguf, BadMetadataAndTensorsAreNamed) {
    const std::vector<float> values(64);
    const auto bytes = std::as_bytes(std::span(values));
    EXPECT_NE(refusal_of([](GgufWriter& w) { w.add_uint("a", 1); w.add_uint("a", 2); }).find("twice"), std::string::npos);
    EXPECT_NE(refusal_of([&](GgufWriter& w) {
                  w.add_tensor("t", WeightType::kF32, {64}, bytes);
                  w.add_tensor("t", WeightType::kF32, {64}, bytes);
              }).find("twice"), std::string::npos);
    EXPECT_NE(refusal_of([&](GgufWriter& w) { w.add_tensor("t", WeightType::kF32, {0}, bytes); }).find("impossible size"),
              std::string::npos);
    EXPECT_NE(refusal_of([&](GgufWriter& w) {
                  w.add_tensor("t", WeightType::kF32, {1ull << 33, 1ull << 33}, bytes);
              }).find("impossible size"), std::string::npos);
    EXPECT_NE(refusal_of([&](GgufWriter& w) { w.add_tensor("t", WeightType::kQ4_0, {33}, bytes); }).find("multiple"),
              std::string::npos);
    EXPECT_NE(refusal_of([&](GgufWriter& w) { w.add_tensor("t", static_cast<WeightType>(10), {64}, bytes); }).find("Q2_K"),
              std::string::npos);
    EXPECT_NE(refusal_of([](GgufWriter& w) { w.add_uint("split.count", 3); }).find("split"), std::string::npos);
    EXPECT_NE(refusal_of([](GgufWriter& w) { w.add_string("general.architecture", "mamba"); }).find("'mamba'"),
              std::string::npos);
    EXPECT_NE(refusal_of([](GgufWriter& w) { w.add_string("general.architecture", "llama"); }).find("block_count"),
              std::string::npos);
}

// Every damaged file is either still a model or refused; nothing else happens (run under ASan in the asan preset).
TEST(Gguf, RandomDamageNeverCrashes) {
    TinyOptions small;
    small.n_layers = 1;
    const std::vector<std::byte> good = make_tiny_gguf(small);
    std::mt19937 random(static_cast<unsigned>(::testing::UnitTest::GetInstance()->random_seed()) + 1);
    for (int i = 0; i < 1500; ++i) {
        std::vector<std::byte> bytes = good;
        // Mostly the header: the weights are not interpreted on opening.
        const int flips = 1 + static_cast<int>(random() % 4);
        for (int f = 0; f < flips; ++f) {
            const std::size_t at = random() % (random() % 4 == 0 ? bytes.size() : 12000);
            bytes[at] ^= static_cast<std::byte>(1u << (random() % 8));
        }
        if (random() % 8 == 0) bytes.resize(random() % bytes.size());
        refusal(bytes);
    }
}

}  // namespace
}  // namespace winnow::test
