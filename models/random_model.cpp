// SPDX-License-Identifier: Apache-2.0
#include "models/random_model.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include "runtime/weights/weight_planes.h"

namespace winnow {
namespace {

struct Known {
    std::string_view name;
    std::uint32_t n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx;
    bool tied;
};
constexpr std::array<Known, 3> kKnown{{
    {"135m", 30, 576, 1536, 9, 3, 64, 49152, 131072, true},
    {"1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, true},
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072, false},
}};
constexpr std::array<std::string_view, 3> kNames{kKnown[0].name, kKnown[1].name, kKnown[2].name};

std::uint64_t mix(std::uint64_t x) {  // splitmix64
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Where the f16 scales of a block stand and what they must be for weights of about 0.02.
struct ScaleField {
    std::size_t offset;
    std::uint16_t half;
};
std::span<const ScaleField> scale_fields(WeightType type) {
    // 0x1d00 = 0.0049, 0x1500 = 0.00122, 0x1100 = 0.00061, 0x0a00 = 0.00018
    static constexpr std::array<ScaleField, 1> q4_0{{{0, 0x1d00}}};
    static constexpr std::array<ScaleField, 2> q4_1{{{0, 0x1d00}, {2, 0xa8d0}}};  // m = -0.0376
    static constexpr std::array<ScaleField, 1> q5_0{{{0, 0x1900}}};
    static constexpr std::array<ScaleField, 2> q5_1{{{0, 0x1900}, {2, 0xa8d0}}};
    static constexpr std::array<ScaleField, 1> q8_0{{{0, 0x0a00}}};
    static constexpr std::array<ScaleField, 2> q4_k{{{0, 0x0a00}, {2, 0x1400}}};
    static constexpr std::array<ScaleField, 2> q5_k{{{0, 0x0680}, {2, 0x1400}}};
    static constexpr std::array<ScaleField, 1> q6_k{{{208, 0x0080}}};
    switch (type) {
        case WeightType::kQ4_0: return q4_0;
        case WeightType::kQ4_1: return q4_1;
        case WeightType::kQ5_0: return q5_0;
        case WeightType::kQ5_1: return q5_1;
        case WeightType::kQ8_0: return q8_0;
        case WeightType::kQ4_K: return q4_k;
        case WeightType::kQ5_K: return q5_k;
        case WeightType::kQ6_K: return q6_k;
        default: return {};
    }
}

void fill_range(WeightType type, std::uint64_t seed, std::uint64_t first_block, std::span<std::byte> blocks,
                std::size_t block_bytes) {
    const std::span<const ScaleField> fields = scale_fields(type);
    for (std::size_t at = 0; at < blocks.size(); at += block_bytes) {
        std::byte* block = blocks.data() + at;
        const std::uint64_t base = mix(seed ^ mix(first_block + at / block_bytes));
        for (std::size_t i = 0; i < block_bytes; i += 8) {
            const std::uint64_t word = mix(base + i);
            std::memcpy(block + i, &word, std::min<std::size_t>(8, block_bytes - i));
        }
        if (type == WeightType::kF32 || type == WeightType::kF16 || type == WeightType::kBF16) {
            const float value = (static_cast<float>(base >> 40) / 16777216.0f - 0.5f) * 0.07f;
            std::uint32_t bits = 0;
            std::memcpy(&bits, &value, 4);
            // f16: 0.0175 +- 0.0175 as sign, exponent 2^-6 or below, random mantissa.
            const auto half = static_cast<std::uint16_t>((base & 0x8000) | 0x2000 | (base & 0x07ff));
            const auto brain = static_cast<std::uint16_t>(bits >> 16);
            if (type == WeightType::kF32) std::memcpy(block, &bits, 4);
            else std::memcpy(block, type == WeightType::kF16 ? &half : &brain, 2);
        }
        for (const ScaleField& field : fields) std::memcpy(block + field.offset, &field.half, 2);
    }
}

// Zero pages that exist only once they are written to.
class Pages {
public:
    explicit Pages(std::size_t n) : n_(n) {
        void* at = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        at_ = static_cast<std::byte*>(at);
    }
    ~Pages() {
        if (at_ != nullptr) munmap(at_, n_);
    }
    Pages(Pages&& other) noexcept : at_(std::exchange(other.at_, nullptr)), n_(other.n_) {}
    Pages& operator=(Pages&&) = delete;
    std::span<std::byte> bytes() const { return {at_, n_}; }

private:
    std::byte* at_ = nullptr;
    std::size_t n_;
};

struct Owned {
    std::vector<Pages> pages;
    std::vector<std::unique_ptr<GgufTensor>> tensors;
};

}  // namespace

std::span<const std::string_view> random_model_names() { return kNames; }

void fill_random_weights(WeightType type, std::uint64_t seed, std::span<std::byte> blocks) {
    const std::size_t block_bytes = block_format(type).bytes;
    const std::size_t n_blocks = blocks.size() / block_bytes;
    const std::size_t n_threads =
        std::clamp<std::size_t>(blocks.size() >> 20, 1, std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < n_threads; ++t) {
        const std::size_t begin = n_blocks * t / n_threads;
        const std::size_t end = n_blocks * (t + 1) / n_threads;
        threads.emplace_back([=] {
            fill_range(type, seed, begin, blocks.subspan(begin * block_bytes, (end - begin) * block_bytes),
                       block_bytes);
        });
    }
}

namespace {

ModelSource make_model(std::string_view name, WeightType type, bool with_values) {
    const auto known = std::find_if(kKnown.begin(), kKnown.end(), [&](const Known& k) { return k.name == name; });
    if (known == kKnown.end())
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("unknown shape '{}'; known are {}", name, fmt::join(kNames, ", ")));
    const Known& k = *known;
    const BlockFormat format = block_format(type);
    for (const std::uint32_t columns : {k.n_embd, k.n_ff, k.n_heads * k.head_dim})
        if (columns % format.weights != 0)
            throw Error(
                ErrorCode::kInvalidArgument,
                fmt::format("{} columns of shape '{}' are no multiple of the {} weights of a {} block: use q4_0",
                            columns, name, format.weights, type_name(type)));
    ModelSource model;
    ModelShape& s = model.shape;
    s.architecture = "llama";
    s.n_layers = k.n_layers;
    s.n_embd = k.n_embd;
    s.n_ff = k.n_ff;
    s.n_heads = k.n_heads;
    s.n_kv_heads = k.n_kv_heads;
    s.head_dim = s.n_rot = k.head_dim;
    s.n_vocab = k.n_vocab;
    s.n_ctx_train = k.n_ctx;
    s.attention_scale = 1.0f / std::sqrt(static_cast<float>(k.head_dim));
    LayerShape layer;
    layer.rope_freq_base = 500000;
    s.layers.assign(k.n_layers, layer);

    auto owned = std::make_shared<Owned>();
    std::uint64_t seed = 1;
    const auto matrix = [&](std::string_view tensor_name, std::uint64_t n_in, std::uint64_t n_rows) {
        owned->pages.emplace_back(stored_row_bytes(type, n_in) * n_rows);
        if (with_values) fill_random_weights(type, seed++, owned->pages.back().bytes());
        auto tensor = std::make_unique<GgufTensor>();
        tensor->name = tensor_name;
        tensor->type = type;
        tensor->dims = {n_in, n_rows};
        tensor->bytes = owned->pages.back().bytes();
        owned->tensors.push_back(std::move(tensor));
        return owned->tensors.back().get();
    };
    const auto ones = [&](std::string_view tensor_name, std::uint64_t n) {
        const std::vector<float> values(n, 1.0f);
        owned->pages.emplace_back(n * 4);
        std::memcpy(owned->pages.back().bytes().data(), values.data(), n * 4);
        auto tensor = std::make_unique<GgufTensor>();
        tensor->name = tensor_name;
        tensor->dims = {n};
        tensor->bytes = owned->pages.back().bytes();
        owned->tensors.push_back(std::move(tensor));
        return owned->tensors.back().get();
    };
    const std::uint32_t q_dim = s.q_dim(), kv_dim = s.kv_dim();
    LayerTensors l;
    l.attn_norm = l.ffn_norm = ones("norm", k.n_embd);
    l.attn_q = matrix("attn_q", k.n_embd, q_dim);
    l.attn_k = matrix("attn_k", k.n_embd, kv_dim);
    l.attn_v = matrix("attn_v", k.n_embd, kv_dim);
    l.attn_output = matrix("attn_output", q_dim, k.n_embd);
    l.ffn_gate = matrix("ffn_gate", k.n_embd, k.n_ff);
    l.ffn_up = matrix("ffn_up", k.n_embd, k.n_ff);
    l.ffn_down = matrix("ffn_down", k.n_ff, k.n_embd);
    model.tensors.layers.assign(k.n_layers, l);
    model.tensors.output_norm = l.attn_norm;
    model.tensors.token_embd = matrix("token_embd", k.n_embd, k.n_vocab);
    model.tensors.output = k.tied ? model.tensors.token_embd : matrix("output", k.n_embd, k.n_vocab);
    model.owned = std::move(owned);
    return model;
}

}  // namespace

ModelSource random_model(std::string_view name, WeightType type) { return make_model(name, type, true); }

ModelSource random_model_outline(std::string_view name, WeightType type) { return make_model(name, type, false); }

std::vector<std::byte> random_kv_blocks(const KvLayout& layout, std::uint64_t n_blocks) {
    const KvConfig& c = layout.config();
    const std::uint64_t block_bytes = layout.block_bytes();
    std::vector<std::byte> blocks(n_blocks * block_bytes);
    // Floats of either sign from 1/2 to 1; codes of any value with a scale that makes them at most 1.
    const bool is_f16 = c.type == KvType::kF16, is_f32 = c.type == KvType::kF32;
    const std::uint64_t kept = is_f16 ? 0x83ff83ff83ff83ffull : is_f32 ? 0x807fffff807fffffull : ~0ull;
    const std::uint64_t set = is_f16 ? 0x3800380038003800ull : is_f32 ? 0x3f0000003f000000ull : 0;
    for (std::size_t i = 0; i < blocks.size(); i += 8) {
        const std::uint64_t word = (mix(i) & kept) | set;
        std::memcpy(blocks.data() + i, &word, std::min<std::size_t>(8, blocks.size() - i));
    }
    if (is_f16 || is_f32) return blocks;
    // The scales, f16, stand behind the codes of a block: 1/127 and 1/8.
    const std::uint16_t scale = c.type == KvType::kQ8_0 ? 0x2008 : 0x3000;
    const std::uint64_t n_scales = std::uint64_t{c.block_size} * ((c.head_dim + 31) / 32);
    for (std::uint64_t end = block_bytes; end <= blocks.size(); end += block_bytes)
        for (std::uint64_t k = 1; k <= n_scales; ++k) std::memcpy(blocks.data() + end - 2 * k, &scale, 2);
    return blocks;
}

}  // namespace winnow
