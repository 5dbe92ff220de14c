// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_gguf.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "models/gguf.h"
#include "models/gguf_writer.h"
#include "models/random_model.h"

namespace winnow::test {
namespace {

std::string utf8(std::uint32_t code) {
    std::string s;
    if (code < 0x80) {
        s += static_cast<char>(code);
    } else if (code < 0x800) {
        s += static_cast<char>(0xc0 | (code >> 6));
        s += static_cast<char>(0x80 | (code & 63));
    } else {
        s += static_cast<char>(0xe0 | (code >> 12));
        s += static_cast<char>(0x80 | ((code >> 6) & 63));
        s += static_cast<char>(0x80 | (code & 63));
    }
    return s;
}

// GPT-2's map from bytes to printable characters: printable Latin-1 stays, the rest moves to 256 and up.
std::string byte_token(unsigned byte) {
    const auto stays = [](unsigned b) {
        return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
    };
    if (stays(byte)) return utf8(byte);
    unsigned moved = 256;
    for (unsigned b = 0; b < byte; ++b)
        if (!stays(b)) ++moved;
    return utf8(moved);
}

struct Vocabulary {
    std::vector<std::string> tokens;
    std::vector<std::int32_t> types;  // 1 normal, 2 unknown, 3 control, 6 byte
    std::vector<float> scores;
    std::vector<std::string> merges;
    void add(const std::string& token, std::int32_t type, float score = 0) {
        tokens.push_back(token);
        types.push_back(type);
        scores.push_back(score);
    }
};

Vocabulary byte_level_vocabulary() {
    Vocabulary v;
    for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) v.add(special, 3);
    for (unsigned b = 0; b < 256; ++b) v.add(byte_token(b), 1);
    const std::string space = byte_token(' ');
    const std::vector<std::pair<std::string, std::string>> merges{
        {"t", "h"}, {"th", "e"}, {space, "the"}, {"i", "n"}, {"e", "r"}, {"a", "n"}, {"o", "n"}, {space, "a"}};
    for (const auto& [left, right] : merges) {
        v.merges.push_back(left + " " + right);
        v.add(left + right, 1);
    }
    while (v.tokens.size() < 320) v.add(fmt::format("<|extra_{}|>", v.tokens.size()), 3);
    return v;
}

Vocabulary sentencepiece_vocabulary() {
    Vocabulary v;
    v.add("<pad>", 3);
    v.add("<eos>", 3);
    v.add("<bos>", 3);
    v.add("<unk>", 2);
    for (unsigned b = 0; b < 256; ++b) v.add(fmt::format("<0x{:02X}>", b), 6);
    v.add("<start_of_turn>", 3);
    v.add("<end_of_turn>", 3);
    const std::string space = utf8(0x2581);
    float score = -1;
    for (const std::string& piece :
         {std::string("in"), std::string("th"), std::string("the"), space + "the", space + "a"})
        v.add(piece, 1, score--);
    v.add(space, 1, -100);
    for (char c = 'a'; c <= 'z'; ++c) v.add(std::string(1, c), 1, -200.0f - static_cast<float>(c));
    while (v.tokens.size() < 320) v.add(fmt::format("<unused{}>", v.tokens.size()), 3);
    return v;
}

constexpr const char* kChatml =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
constexpr const char* kGemma =
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | "
    "trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

}  // namespace

std::vector<std::byte> make_tiny_gguf(const TinyOptions& o) {
    const bool gemma = o.architecture == "gemma3";
    GgufWriter w;
    const auto key = [&](const char* name) { return o.architecture + "." + name; };
    w.add_string("general.architecture", o.architecture);
    w.add_string("general.name", "tiny");
    w.add_uint(key("block_count"), o.n_layers);
    w.add_uint(key("context_length"), o.n_ctx);
    w.add_uint(key("embedding_length"), o.n_embd);
    w.add_uint(key("feed_forward_length"), o.n_ff);
    w.add_uint(key("attention.head_count"), o.n_heads);
    w.add_uint(key("attention.head_count_kv"), o.n_kv_heads);
    w.add_uint(key("attention.key_length"), o.head_dim);
    w.add_uint(key("attention.value_length"), o.head_dim);
    w.add_uint(key("rope.dimension_count"), o.head_dim);
    w.add_float(key("rope.freq_base"), 10000.0f);
    w.add_float(key("attention.layer_norm_rms_epsilon"), 1e-5f);
    if (gemma) {
        w.add_uint(key("attention.sliding_window"), o.window);
        w.add_uint(key("attention.sliding_window_pattern"), 2);
    }
    const Vocabulary v = gemma ? sentencepiece_vocabulary() : byte_level_vocabulary();
    w.add_string("tokenizer.ggml.model", gemma ? "llama" : "gpt2");
    w.add_string("tokenizer.ggml.pre", gemma ? "default" : "gpt-2");
    w.add_strings("tokenizer.ggml.tokens", v.tokens);
    w.add_ints("tokenizer.ggml.token_type", v.types);
    if (gemma) w.add_floats("tokenizer.ggml.scores", v.scores);
    else w.add_strings("tokenizer.ggml.merges", v.merges);
    w.add_uint("tokenizer.ggml.bos_token_id", gemma ? 2 : 1);
    w.add_uint("tokenizer.ggml.eos_token_id", gemma ? 1 : 2);
    w.add_bool("tokenizer.ggml.add_bos_token", gemma);
    if (gemma) w.add_bool("tokenizer.ggml.add_space_prefix", false);
    w.add_string("tokenizer.chat_template", gemma ? kGemma : kChatml);
    if (o.vocabulary_only) return w.bytes();

    std::uint64_t seed = o.seed * 1000;
    const auto matrix = [&](const std::string& name, std::uint64_t n_in, std::uint64_t n_out) {
        std::vector<std::byte> bytes(row_bytes(o.type, n_in) * n_out);
        fill_random_weights(o.type, ++seed, bytes);
        w.add_tensor(name, o.type, {n_in, n_out}, bytes);
    };
    const auto vector = [&](const std::string& name, std::uint64_t n) {
        std::vector<float> values(n);
        ++seed;
        for (std::uint64_t i = 0; i < n; ++i)
            values[i] = 1.0f + 0.25f * static_cast<float>(std::sin(static_cast<double>(seed * 31 + i * 7)));
        w.add_tensor(name, WeightType::kF32, {n}, std::as_bytes(std::span(values)));
    };
    const std::uint64_t q_dim = o.n_heads * o.head_dim;
    const std::uint64_t kv_dim = o.n_kv_heads * o.head_dim;
    matrix("token_embd.weight", o.n_embd, v.tokens.size());
    vector("output_norm.weight", o.n_embd);
    for (std::uint32_t i = 0; i < o.n_layers; ++i) {
        const std::string blk = fmt::format("blk.{}.", i);
        vector(blk + "attn_norm.weight", o.n_embd);
        matrix(blk + "attn_q.weight", o.n_embd, q_dim);
        matrix(blk + "attn_k.weight", o.n_embd, kv_dim);
        matrix(blk + "attn_v.weight", o.n_embd, kv_dim);
        matrix(blk + "attn_output.weight", q_dim, o.n_embd);
        vector(blk + "ffn_norm.weight", o.n_embd);
        matrix(blk + "ffn_gate.weight", o.n_embd, o.n_ff);
        matrix(blk + "ffn_up.weight", o.n_embd, o.n_ff);
        matrix(blk + "ffn_down.weight", o.n_ff, o.n_embd);
        if (gemma) {
            vector(blk + "attn_q_norm.weight", o.head_dim);
            vector(blk + "attn_k_norm.weight", o.head_dim);
            vector(blk + "post_attention_norm.weight", o.n_embd);
            vector(blk + "post_ffw_norm.weight", o.n_embd);
        }
    }
    return w.bytes();
}

}  // namespace winnow::test
