// SPDX-License-Identifier: Apache-2.0
#include "models/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "models/gemma3.h"
#include "models/llama.h"
#include "runtime/io/safe_path.h"

namespace winnow {
namespace {

struct Architecture {
    std::string_view name;
    ModelShape (*read_shape)(const GgufFile&);
    ModelTensors (*read_tensors)(const GgufFile&, const ModelShape&);
};
constexpr std::array<Architecture, 2> kArchitectures{{
    {"llama", read_llama_shape, read_llama_tensors},
    {"gemma3", read_gemma3_shape, read_gemma3_tensors},
}};

// A damaged file and one of a kind that winnow does not know look alike from here.
[[noreturn]] void bad(const GgufFile& file, const std::string& what) {
    throw Error(ErrorCode::kBadFile,
                fmt::format("'{}': {}; download it again or choose another model", safe_path(file.path()), what));
}

const Architecture& architecture_of(const GgufFile& file) {
    const std::string_view name = file.get_string("general.architecture");
    for (const Architecture& a : kArchitectures)
        if (a.name == name) return a;
    throw Error(ErrorCode::kBadFile,
                fmt::format("'{}': architecture '{}' is not supported, known are {}; choose another model",
                            safe_path(file.path()), safe_excerpt(name), fmt::join(known_architectures(), ", ")));
}

// Sets head_dim, n_rot and attention_scale.
void read_head_dims(const ConfigReader& c, ModelShape& s) {
    if (c.file().metadata().contains(c.key("attention.key_length"))) {
        s.head_dim = c.count("attention.key_length", 8, 256);
        if (s.head_dim % 8 != 0) c.refuse_value("attention.key_length", s.head_dim, "is no multiple of 8");
    } else {
        s.head_dim = s.n_embd / s.n_heads;
        if (s.n_embd % s.n_heads != 0 || s.head_dim % 8 != 0 || s.head_dim < 8 || s.head_dim > 256)
            c.refuse_value("attention.head_count", s.n_heads,
                           fmt::format("does not cut n_embd {} into heads of 8, 16 ... 256", s.n_embd));
    }
    if (const std::uint32_t v = c.count_or("attention.value_length", s.head_dim, 0, 1u << 16); v != s.head_dim)
        c.refuse_value("attention.value_length", v, fmt::format("differs from the keys' {}", s.head_dim));
    // Attention quantises the outputs of a kv head's query heads in blocks of 32.
    if (s.n_group() * s.head_dim % 32 != 0)
        c.refuse_value("attention.head_count", s.n_heads,
                       fmt::format("makes groups of {} x {} columns, no multiple of 32", s.n_group(), s.head_dim));
    s.n_rot = c.count_or("rope.dimension_count", s.head_dim, 2, s.head_dim);
    if (s.n_rot % 2 != 0) c.refuse_value("rope.dimension_count", s.n_rot, "is odd");
    s.attention_scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
}

// Rows of the embedding table; ids of the tokenizer must neither lack a row nor miss one.
std::uint32_t read_vocabulary_size(const ConfigReader& c) {
    const GgufFile& file = c.file();
    const std::uint64_t n = file.tensor("token_embd.weight").n_rows();
    if (n > (1u << 24)) bad(file, fmt::format("tensor 'token_embd.weight' has {} rows, more than any vocabulary", n));
    const GgufArray* tokens = file.find_array("tokenizer.ggml.tokens");
    if (tokens != nullptr && tokens->size() != n)
        bad(file, fmt::format("'tokenizer.ggml.tokens' has {} tokens but tensor 'token_embd.weight' has {} rows",
                              tokens->size(), n));
    if (const std::uint64_t claimed = file.find_uint(c.key("vocab_size")).value_or(n); claimed != n)
        c.refuse_value("vocab_size", claimed, fmt::format("differs from the {} rows of 'token_embd.weight'", n));
    return static_cast<std::uint32_t>(n);
}

// Keys that change what a model computes, for recipes that do not read them: each must be absent or say nothing.
// llama.cpp takes 0 of a scale for "none".
void refuse_foreign_recipe(const ConfigReader& c, const ModelShape& s) {
    if (const auto causal = c.file().find_bool(c.key("attention.causal")); causal && !*causal)
        bad(c.file(), fmt::format("'{}' is false, which winnow does not support", c.key("attention.causal")));
    for (const char* name : {"attention.temperature_scale", "attention.clamp_kqv", "attention.max_alibi_bias"})
        c.refuse_unless_zero(name);
    const std::pair<const char*, float> scales[] = {{"attention.scale", s.attention_scale},
                                                    {"embedding_scale", s.embedding_scale},
                                                    {"logit_scale", 1.0f},
                                                    {"residual_scale", 1.0f},
                                                    {"rope.scaling.attn_factor", 1.0f}};
    for (const auto& [name, neutral] : scales)
        if (const double value = c.file().find_float(c.key(name)).value_or(0);
            value != 0 && !(std::fabs(value - neutral) <= 1e-5 * neutral))
            bad(c.file(), fmt::format("'{}' is {}, which winnow does not support", c.key(name), value));
}

// Frequencies of RoPE as very old files hold them, which follow from the base.
bool is_legacy(std::string_view name) { return name.find(".attn_rot_embd") != std::string_view::npos; }

// The layer of "blk.N.", if there is one.
std::optional<std::uint64_t> layer_of(std::string_view name) {
    if (!name.starts_with("blk.")) return std::nullopt;
    std::uint64_t layer = 0;
    const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
    return error == std::errc() ? std::optional(layer) : std::nullopt;
}

// A tensor that the recipe leaves out would have changed the result; a damaged count of layers leaves out whole ones.
void refuse_unused(const GgufFile& file, const ModelShape& s, const ModelTensors& tensors) {
    std::set<const GgufTensor*> used{tensors.token_embd, tensors.output_norm, tensors.output};
    for (const LayerTensors& l : tensors.layers)
        used.insert({l.attn_norm, l.attn_q, l.attn_k, l.attn_v, l.attn_q_bias, l.attn_k_bias, l.attn_v_bias,
                     l.attn_q_norm, l.attn_k_norm, l.attn_output, l.post_attention_norm, l.ffn_norm, l.ffn_gate,
                     l.ffn_up, l.ffn_down, l.post_ffw_norm});
    if (!s.rope_freq_divisors.empty()) used.insert(file.find("rope_freqs.weight"));
    for (const GgufTensor& t : file.tensors()) {
        const std::optional<std::uint64_t> layer = layer_of(t.name);
        if (layer && *layer >= s.n_layers)
            bad(file, fmt::format("tensor '{}' lies beyond the {} layers of '{}.block_count'", safe_excerpt(t.name),
                                  s.n_layers, s.architecture));
        if (!used.contains(&t) && !is_legacy(t.name))
            bad(file,
                fmt::format("tensor '{}' belongs to a variant that winnow does not support", safe_excerpt(t.name)));
    }
}

}  // namespace

std::vector<std::string_view> known_architectures() {
    std::vector<std::string_view> names;
    for (const Architecture& a : kArchitectures) names.push_back(a.name);
    return names;
}

ModelShape read_model_shape(const GgufFile& file) {
    const Architecture& architecture = architecture_of(file);
    ModelShape shape = architecture.read_shape(file);
    refuse_foreign_recipe(ConfigReader(file, architecture.name), shape);
    return shape;
}

ModelTensors read_model_tensors(const GgufFile& file, const ModelShape& shape) {
    ModelTensors tensors = architecture_of(file).read_tensors(file, shape);
    refuse_unused(file, shape, tensors);
    return tensors;
}

std::uint32_t ConfigReader::count(std::string_view name, std::uint64_t least, std::uint64_t most) const {
    const std::uint64_t value = file_.get_uint(key(name));
    if (value < least || value > most)
        bad(file_, fmt::format("'{}' is {}, outside {} to {}", key(name), value, least, most));
    return static_cast<std::uint32_t>(value);
}

std::uint32_t ConfigReader::count_or(std::string_view name, std::uint32_t otherwise, std::uint64_t least,
                                     std::uint64_t most) const {
    return file_.metadata().contains(key(name)) ? count(name, least, most) : otherwise;
}

float ConfigReader::real(std::string_view name, float least, float most) const {
    const double value = file_.get_float(key(name));
    if (!(value >= least && value <= most))
        bad(file_, fmt::format("'{}' is {}, outside {} to {}", key(name), value, least, most));
    return static_cast<float>(value);
}

float ConfigReader::real_or(std::string_view name, float otherwise, float least, float most) const {
    return file_.metadata().contains(key(name)) ? real(name, least, most) : otherwise;
}

void ConfigReader::refuse_value(std::string_view name, std::uint64_t value, std::string_view what) const {
    bad(file_, fmt::format("'{}' is {}, which {}", key(name), value, what));
}

void ConfigReader::refuse_unless_zero(std::string_view name) const {
    if (const double value = file_.find_float(key(name)).value_or(0); value != 0)
        bad(file_, fmt::format("'{}' is {}, which winnow does not support", key(name), value));
}

ModelShape read_common_shape(const ConfigReader& c) {
    ModelShape s;
    s.architecture = c.file().get_string("general.architecture");
    s.n_layers = c.count("block_count", 1, 1024);
    s.n_embd = c.count("embedding_length", 32, 1u << 16);
    s.n_ff = c.count("feed_forward_length", 32, 1u << 18);
    s.n_heads = c.count("attention.head_count", 1, 1024);
    s.n_kv_heads = c.count_or("attention.head_count_kv", s.n_heads, 1, 1024);
    s.n_ctx_train = c.count("context_length", 1, 1u << 24);
    s.rms_eps = c.real("attention.layer_norm_rms_epsilon", 1e-12f, 0.1f);  // 0 would divide by a zero row's
    if (s.n_embd % 32 != 0) c.refuse_value("embedding_length", s.n_embd, "is no multiple of 32");
    if (s.n_ff % 32 != 0) c.refuse_value("feed_forward_length", s.n_ff, "is no multiple of 32");
    if (s.n_heads % s.n_kv_heads != 0)
        c.refuse_value("attention.head_count", s.n_heads,
                       fmt::format("does not divide by the {} kv heads", s.n_kv_heads));
    read_head_dims(c, s);
    s.n_vocab = read_vocabulary_size(c);
    LayerShape layer;
    layer.rope_freq_base = read_rope_base(c, "rope.freq_base");
    s.layers.assign(s.n_layers, layer);
    return s;
}

float read_rope_base(const ConfigReader& c, std::string_view name) { return c.real_or(name, 10000.0f, 1.001f, 1e12f); }

float read_linear_rope_scale(const ConfigReader& c) {
    // llama.cpp takes a factor without a type for a linear one, and so did the files of its time.
    const std::string_view kind = c.file().find_string(c.key("rope.scaling.type")).value_or("linear");
    if (kind == "none") return 1.0f;
    if (kind != "linear")
        bad(c.file(), fmt::format("'{}' is '{}', which is not supported, known are none, linear",
                                  c.key("rope.scaling.type"), safe_excerpt(kind)));
    const float old_factor = c.real_or("rope.scale_linear", 1.0f, 1.0f, 1e4f);
    return 1.0f / c.real_or("rope.scaling.factor", old_factor, 1.0f, 1e4f);
}

const GgufTensor* TensorFinder::matrix(const std::string& name, std::uint64_t n_in, std::uint64_t n_out) const {
    const GgufTensor& t = file_.tensor(name);
    if (t.dims.size() > 2 || t.n_in() != n_in || t.n_rows() != n_out)
        bad(file_, fmt::format("tensor '{}' is [{}], expected [{}, {}]", name, fmt::join(t.dims, ", "), n_in, n_out));
    return &t;
}

const GgufTensor* TensorFinder::vector(const std::string& name, std::uint64_t n) const {
    const GgufTensor& t = file_.tensor(name);
    if (t.n_in() != n || t.n_rows() != 1)
        bad(file_, fmt::format("tensor '{}' is [{}], expected [{}]", name, fmt::join(t.dims, ", "), n));
    if (t.type != WeightType::kF32 && t.type != WeightType::kF16)
        bad(file_, fmt::format("tensor '{}' is {}, expected F32 or F16", name, type_name(t.type)));
    return &t;
}

ModelTensors read_common_tensors(const GgufFile& file, const ModelShape& s) {
    const TensorFinder find(file);
    ModelTensors tensors;
    tensors.token_embd = find.matrix("token_embd.weight", s.n_embd, s.n_vocab);
    tensors.output_norm = find.vector("output_norm.weight", s.n_embd);
    tensors.output = find.has("output.weight") ? find.matrix("output.weight", s.n_embd, s.n_vocab) : tensors.token_embd;
    for (std::uint32_t i = 0; i < s.n_layers; ++i) {
        const std::string blk = fmt::format("blk.{}.", i);
        LayerTensors l;
        l.attn_norm = find.vector(blk + "attn_norm.weight", s.n_embd);
        l.attn_q = find.matrix(blk + "attn_q.weight", s.n_embd, s.q_dim());
        l.attn_k = find.matrix(blk + "attn_k.weight", s.n_embd, s.kv_dim());
        l.attn_v = find.matrix(blk + "attn_v.weight", s.n_embd, s.kv_dim());
        l.attn_output = find.matrix(blk + "attn_output.weight", s.q_dim(), s.n_embd);
        l.ffn_norm = find.vector(blk + "ffn_norm.weight", s.n_embd);
        l.ffn_gate = find.matrix(blk + "ffn_gate.weight", s.n_embd, s.n_ff);
        l.ffn_up = find.matrix(blk + "ffn_up.weight", s.n_embd, s.n_ff);
        l.ffn_down = find.matrix(blk + "ffn_down.weight", s.n_ff, s.n_embd);
        tensors.layers.push_back(l);
    }
    return tensors;
}

}  // namespace winnow
