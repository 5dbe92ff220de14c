// SPDX-License-Identifier: Apache-2.0
// SparseAttention on its own: random keys with a few needles planted, and queries that look for them. Prints what was
// found, how many tokens were attended and how much of the attention they held.
#include <cstdio>
#include <random>
#include <vector>

#include "winnow/attention.h"

namespace {

constexpr std::uint32_t kTokens = 8192;
constexpr std::uint32_t kHeadDim = 128;

std::vector<float> random_vector(std::mt19937& random, std::size_t n, float deviation) {
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(n);
    for (float& v : values) v = normal(random);
    return values;
}

// Keys that lie in the direction of the query get a score of `strength`; the rest score about N(0, 1).
void plant(std::vector<float>& keys, std::uint32_t n_kv_heads, std::uint32_t token, std::uint32_t kv_head,
           const std::vector<float>& direction, float strength) {
    float length = 0;
    for (const float d : direction) length += d * d;
    for (std::uint32_t c = 0; c < kHeadDim; ++c)
        keys[(token * n_kv_heads + kv_head) * kHeadDim + c] +=
            direction[c] / length * strength * 11.3f;  // 11.3 = sqrt(head_dim): undoes the softmax scale
}

int run(const char* preset, float mass) {
    winnow::AttentionConfig config;
    config.n_heads = 8;
    config.n_kv_heads = 2;
    config.head_dim = kHeadDim;
    config.capacity = kTokens;
    winnow::SparseOverrides overrides;
    overrides.mass = mass;
    const winnow::SparsePolicy policy = winnow::make_sparse_attention_policy(preset, overrides);
    winnow::SparseAttention attention({}, config, policy);

    std::mt19937 random(7);
    std::vector<float> keys = random_vector(random, std::size_t{kTokens} * 2 * kHeadDim, 1.0f);
    const std::vector<float> values = random_vector(random, keys.size(), 1.0f);
    const std::vector<float> direction = random_vector(random, kHeadDim, 1.0f);
    const std::vector<std::uint32_t> needles{17, 2047, 2048, 5555, 8000};
    for (const std::uint32_t token : needles)
        for (std::uint32_t h = 0; h < 2; ++h) plant(keys, 2, token, h, direction, 14.0f);
    attention.append(keys, values);

    std::vector<float> query;  // every head looks for the same direction
    for (std::uint32_t h = 0; h < config.n_heads; ++h) query.insert(query.end(), direction.begin(), direction.end());
    attention.step(query);

    const std::vector<std::uint32_t> selected = attention.selected(0);
    std::uint32_t n_found = 0;
    for (const std::uint32_t needle : needles) {
        bool found = needle < policy.sink || needle + policy.window >= kTokens;
        for (const std::uint32_t token : selected) found = found || token == needle;
        n_found += found ? 1 : 0;
    }
    float least = 1;
    for (const float captured : attention.audit()) least = captured < least ? captured : least;
    std::printf("%-10s found %u of %zu needles, attended %5.1f %% of %u tokens, captured mass >= %.4f (%s)\n", preset,
                n_found, needles.size(), 100.0 * attention.attended()[0] / kTokens, kTokens, least,
                attention.device().name.c_str());
    return n_found == needles.size() ? 0 : 1;
}

}  // namespace

int main() {
    try {
        int missed = 0;
        // A needle that holds a thousandth of the attention must be in; Quest has a fixed budget of tokens.
        missed += run("exact", 0.999f);
        missed += run("twilight", 0.999f);
        missed += run("quest", -1);
        return missed == 0 ? 0 : 1;
    } catch (const winnow::Error& error) {
        std::fprintf(stderr, "sparse_attention: error: %s\n", error.what());
        return winnow::exit_status(error.code());
    }
}
