// SPDX-License-Identifier: Apache-2.0
// Whole attention of a layer, score + select + attend, against the dense stage in the same run, on an 8B layer (32
// query heads, 8 kv heads, head_dim 128). Synthetic keys: normal noise, and runs of 8 consecutive tokens (2 % of all)
// that lie in the direction of the queries with scores of about 8 above the rest, so that attention is concentrated as
// in text. Budget: 5 % of the tokens. Layers with the same keys take turns, since of one layer the attended tokens
// would stay in a GPU's own cache.
#include "runtime/decode/attention_pipeline.h"

#include <cmath>
#include <cstring>
#include <random>

#include "bench/support/gpu_bench.h"
#include "bench/support/registry.h"
#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"
#include "runtime/vk/upload.h"

namespace winnow::bench {
namespace {

constexpr std::uint32_t kHeads = 32, kKvHeads = 8, kHeadDim = 128;

std::uint16_t half(float x) {  // normal range only: bench data
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, 4);
    const std::uint32_t exponent = (bits >> 23) & 255;
    if (exponent < 113) return 0;
    return static_cast<std::uint16_t>(((bits >> 16) & 0x8000) | ((exponent - 112) << 10) | ((bits >> 13) & 1023));
}

constexpr std::uint64_t kRowBytes = 2ull * kKvHeads * kHeadDim * 2;  // key and value of a token

// So many layers that what is attended in all of them is more than a cache holds.
std::uint32_t n_turns(std::uint32_t n) {
    Bench& b = Bench::get();
    if (b.device().is_cpu()) return 1;
    const std::uint64_t attended = n / 20 * kRowBytes, all = n * kRowBytes;
    const std::uint64_t fit = std::max<std::uint64_t>(b.device().free_memory_bytes() / 2 / all, 1);
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(b.rotation_bytes() / 2 / attended, 1, fit));
}

// Keys of a cache, its queries, and the buffers of a step.
struct Layers {
    explicit Layers(std::uint32_t n)
        : cache(Bench::get().device(), kv_config({"8b", 1, 4096, 14336, kHeads, kKvHeads, kHeadDim, 0}, n, n_turns(n))),
          n_splits(AttendDense::default_splits(Bench::get().device(), kKvHeads, n, 64)),
          state(Bench::get().state(n - 1)),
          attended(Bench::get().buffer(kHeads * kHeadDim * 4)),
          act(Bench::get().buffer(activation_bytes(kHeads * kHeadDim))),
          partials(Bench::get().buffer(attend_partial_bytes(kHeads, kKvHeads, kHeadDim, n_splits))),
          counters(Bench::get().zeros(256)) {
        vk::Device& device = Bench::get().device();
        std::minstd_rand random(1);
        // Sums of four uniforms are normal enough, and fast.
        const auto noise = [&] {
            float s = 0;
            for (int i = 0; i < 4; ++i) s += static_cast<float>(random()) / 2147483647.0f - 0.5f;
            return s * 1.7f;
        };
        std::vector<float> query(kHeads * kHeadDim);
        std::vector<float> direction(kKvHeads * kHeadDim);
        for (float& d : direction) d = noise();
        for (std::uint32_t h = 0; h < kHeads; ++h)
            for (std::uint32_t c = 0; c < kHeadDim; ++c)
                query[h * kHeadDim + c] =
                    direction[h / (kHeads / kKvHeads) * kHeadDim + c] / std::sqrt(float{kHeadDim});
        std::vector<std::uint16_t> keys(std::size_t{n} * kKvHeads * kHeadDim);
        for (std::uint32_t h = 0; h < kKvHeads; ++h) {
            const std::uint32_t first = cache.layout().head(0, h).first_block * 64;
            for (std::uint32_t t = 0; t < n; ++t) {
                const bool hot = (t / 8 * 2654435761u >> 16) % 50 == 0;
                for (std::uint32_t c = 0; c < kHeadDim; ++c)
                    keys[(std::size_t{first} + t) * kHeadDim + c] =
                        half(noise() + (hot ? direction[h * kHeadDim + c] * 0.7f : 0.0f));
            }
        }
        query_buffer = vk::Buffer(device, "query", query.size() * 4, vk::BufferUse::kDevice);
        vk::Uploader uploader(device);
        uploader.upload(cache.keys(0), std::as_bytes(std::span(keys)).first(cache.keys(0).bytes()));
        uploader.upload(cache.values(0), std::as_bytes(std::span(keys)).first(cache.values(0).bytes()));
        uploader.upload(query_buffer, std::as_bytes(std::span(query)));
        uploader.finish();
        vk::run_once(device, [&](vk::Recorder& r) {
            for (std::uint32_t l = 1; l < n_layers(); ++l) {
                r.copy(cache.keys(0), cache.keys(l));
                r.copy(cache.values(0), cache.values(l));
            }
        });
    }
    std::uint32_t n_layers() const { return cache.layout().config().n_layers; }
    AttentionBuffers buffers() const { return {state, query_buffer, partials, counters, attended, act}; }

    KvCache cache;
    std::uint32_t n_splits;
    vk::Buffer state, attended, act, partials, counters, query_buffer;
};

SparsePolicy policy_of(const std::string& name, std::uint32_t n, std::uint32_t n_layers) {
    const std::vector<bool> windowed(n_layers, false);
    if (name == "dense") return make_preset("dense", windowed);
    SparseOverrides overrides;
    overrides.budget = n / 20;
    const bool blocks_of_64 = name == "quest_64";
    if (blocks_of_64) overrides.block = 64;
    SparsePolicy p = make_preset(blocks_of_64 ? "quest" : name, windowed, overrides);
    for (LayerSchedule& layer : p.layers) layer.kind = LayerKind::kSelect;
    return p;
}

bool reads_every_key(const SparsePolicy& p) { return !p.levels.empty() && p.levels.back().scorer == Scorer::kExact; }

}  // namespace

void register_attention_pipeline() {
    const bool cpu = Bench::get().device().is_cpu();
    for (const std::uint32_t n :
         cpu ? std::vector<std::uint32_t>{8192, 32768} : std::vector<std::uint32_t>{8192, 32768, 131072}) {
        for (const char* preset : {"dense", "quest", "quest_64", "twilight", "exact"}) {
            // A software driver takes half a second for a dense step over 32,768 tokens, and longer for exact scores.
            if (cpu && n > 8192 && reads_every_key(policy_of(preset, n, 1))) continue;
            const std::string name = std::string("attention_pipeline/8b/") + preset + "/n_tokens:" + std::to_string(n);
            add_bench(name, [n, preset](benchmark::State& state) {
                Bench& b = Bench::get();
                const Layers layers(n);
                const std::uint32_t n_layers = layers.n_layers();
                const AttentionPipeline pipeline(b.device(), {n_layers, kHeads, kKvHeads, kHeadDim}, layers.cache,
                                                 layers.buffers(), layers.n_splits, policy_of(preset, n, n_layers));
                vk::run_once(b.device(), [&](vk::Recorder& r) {
                    for (std::uint32_t l = 0; l < n_layers; ++l) pipeline.record_prefill(r, l, n, 0);
                });
                const bool sparse = !pipeline.policy().is_dense();
                // One step first, so that the bytes read are known.
                vk::run_once(b.device(), [&](vk::Recorder& r) {
                    for (std::uint32_t l = 0; l < n_layers; ++l) pipeline.record_decode(r, nullptr, l, sparse);
                });
                b.run(state, pipeline.bytes_read(n, sparse) / n_layers, [&](vk::Recorder& r, std::uint32_t i) {
                    pipeline.record_decode(r, nullptr, i % n_layers, sparse);
                });
                if (sparse) {
                    vk::run_once(b.device(), [&](vk::Recorder& r) { pipeline.record_audit(r, 0); });
                    double mass = 0;
                    for (const AttentionPipeline::Mass& m : pipeline.audit_records()) mass += m.mass / kHeads;
                    state.counters["mass"] = mass;
                    state.counters["share"] = static_cast<double>(pipeline.attended_counts(n)[0]) / n;
                }
            });
        }
    }
}

}  // namespace winnow::bench
