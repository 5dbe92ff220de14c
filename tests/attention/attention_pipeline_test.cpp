// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/attention_pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <string>

#include "runtime/kv/step_buffers.h"
#include "runtime/vk/timeline.h"
#include "runtime/weights/select_tuning.h"
#include "tests/reference/attend_dense.h"
#include "tests/reference/select_attend.h"
#include "tests/reference/select_rows.h"
#include "tests/reference/summarize_block.h"
#include "tests/support/close.h"
#include "tests/support/code_rows.h"
#include "tests/support/dense_data.h"
#include "tests/support/sparse_data.h"

namespace winnow::test {
namespace {

constexpr std::uint32_t kLayers = 6, kKvHeads = 2, kGroup = 3, kDim = 64, kHeads = kKvHeads * kGroup, kSplits = 4;
const AttentionShape kShape{kLayers, kHeads, kKvHeads, kDim};
const std::vector<bool> kFull(kLayers, false);
const char* const kTrainingFree[] = {"streaming", "exact",    "quest",       "twilight", "tidal", "delta",
                                     "kascade",   "recycled", "tokenselect", "blasst",   "auto"};

/// Index keys of a layer as the cache stores them, and what their codes say of them: [rows of the pool, index_dim].
struct IndexRows {
    std::span<const float> maps;
    std::vector<float> keys, coded;
};

/// A cache of random keys and values for all layers, and what the pipeline writes.
struct Rig {
    Rig(vk::Device& dev, std::uint32_t n, KvType type, std::uint32_t capacity = 0, float spread = 2.5f)
        : device(dev),
          n_tokens(n),
          cache(dev, config(capacity == 0 ? n : capacity, type)),
          act(dev, "act", activation_bytes(kHeads * kDim), vk::BufferUse::kDevice),
          partials(dev, "partials", attend_partial_bytes(kHeads, kKvHeads, kDim, kSplits), vk::BufferUse::kDevice),
          attended(dev, "attended", kHeads * kDim * 4, vk::BufferUse::kDevice),
          counters(make_buffer(dev, std::span<const std::uint32_t>(std::vector<std::uint32_t>(kKvHeads)))),
          state(make_sparse_state(dev, n - 1)) {
        ReplicableRng rng(n);
        const KvLayout& layout = cache.layout();
        for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
            queries.push_back(rng.normals(kHeads * kDim, 0, spread / 8));
            std::vector<float>& k = keys.emplace_back(std::size_t{layout.layer_blocks(layer)} * kBlock * kDim,
                                                      std::numeric_limits<float>::quiet_NaN());
            std::vector<float>& v = values.emplace_back(k);
            for (std::uint32_t h = 0; h < kKvHeads; ++h) {
                reference::HeadView& head = heads.emplace_back();
                for (std::uint32_t b = 0; b < layout.head(layer, h).n_blocks; ++b)
                    head.blocks.push_back(layout.head(layer, h).first_block + b);
                for (std::uint32_t t = 0; t < n; ++t)
                    for (std::size_t i = head.row(t) * kDim; i < (head.row(t) + 1) * kDim; ++i) {
                        k[i] = rounded_to_half(rng.normal());
                        v[i] = rounded_to_half(rng.normal());
                    }
            }
            upload(cache.keys(layer), k);
            upload(cache.values(layer), v);
        }
    }
    static KvConfig config(std::uint32_t capacity, KvType type) {
        KvConfig c{.n_layers = kLayers,
                   .n_kv_heads = kKvHeads,
                   .head_dim = kDim,
                   .capacity = capacity,
                   .block_size = kBlock,
                   .max_chunk = 64,
                   .type = type,
                   .roles = {}};
        c.roles.resize(kLayers * kKvHeads);
        return c;
    }
    void upload(const vk::Buffer& pool, const std::vector<float>& rows) const {
        vk::Uploader uploader(device);
        std::vector<std::uint16_t> halves;
        if (cache.layout().config().type == KvType::kF16)
            for (const float x : rows) halves.push_back(half_bits(double{x}));
        uploader.upload(pool, halves.empty() ? std::as_bytes(std::span(rows)) : std::as_bytes(std::span(halves)));
        uploader.finish();
    }
    AttentionPipeline pipeline(const SparsePolicy& policy, std::optional<bool> choose_in_attend = {},
                               std::optional<std::uint32_t> most_waiting = {}) {
        query = vk::Buffer(device, "query", kHeads * kDim * 4, vk::BufferUse::kDevice);
        AttentionPipeline p(device, kShape, cache, {state, query, partials, counters, attended, act}, kSplits, policy,
                            policy.index_maps ? std::span<const float>(*policy.index_maps) : std::span<const float>(),
                            true, choose_in_attend, true, most_waiting);
        for (std::uint32_t from = 0; from < n_tokens; from += 500)  // chunks that end inside blocks
            vk::run_once(device, [&](vk::Recorder& r) {
                for (std::uint32_t layer = 0; layer < kLayers; ++layer)
                    p.record_prefill(r, layer, std::min(500u, n_tokens - from), from);
            });
        return p;
    }
    /// All layers of a token: what each attended to, [n_layers][n_heads, head_dim].
    std::vector<std::vector<float>> step(const AttentionPipeline& p, bool sparse = true, bool audit = false) {
        std::vector<std::vector<float>> result;
        lists.clear();
        stages.clear();
        for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
            vk::Uploader uploader(device);
            uploader.upload(query, std::as_bytes(std::span(queries[layer])));
            uploader.finish();
            vk::GpuTimer timer(device, 16);
            vk::run_once(device, [&](vk::Recorder& r) {
                r.timestamp(&timer, "begin");
                p.record_decode(r, &timer, layer, sparse);
                if (audit) p.record_audit(r, layer);
            });
            for (const vk::GpuTimer::Interval& stage : timer.intervals()) stages.insert(stage.label);
            result.push_back(vk::read_back_as<float>(device, attended));
            for (std::uint32_t h = 0; h < kKvHeads; ++h)
                lists.push_back(p.read_list(layer, h));  // the next layer may write over it
        }
        for (const std::uint32_t c : vk::read_back_as<std::uint32_t>(device, counters)) EXPECT_EQ(c, 0u);
        return result;
    }
    /// Dependent dispatches of a layer, which the pipeline must record as it says: each with a barrier after it.
    std::uint32_t n_dispatches(const AttentionPipeline& p, std::uint32_t layer) const {
        vk::Recorder recorder(device, "counted");
        recorder.begin();
        p.record_decode(recorder, nullptr, layer, true);
        recorder.end();
        EXPECT_EQ(recorder.n_dispatches(), p.n_dispatches(layer)) << p.policy().name << " layer " << layer;
        EXPECT_EQ(recorder.n_barriers(), p.n_dispatches(layer)) << p.policy().name << " layer " << layer;
        return p.n_dispatches(layer);
    }
    reference::CacheView view(std::uint32_t layer) const {
        return {kDim, keys[layer], values[layer], std::span(heads).subspan(layer * kKvHeads, kKvHeads)};
    }
    IndexRows index_rows(const SparsePolicy& policy, std::uint32_t layer) const {
        const std::uint32_t dim = policy.index_dim;
        const std::size_t map = std::size_t{dim} * kDim;
        IndexRows index;
        index.maps = std::span(*policy.index_maps).subspan(layer * kKvHeads * 2 * map, kKvHeads * 2 * map);
        index.keys.assign(keys[layer].size() / kDim * dim, std::numeric_limits<float>::quiet_NaN());
        index.coded = index.keys;
        for (std::uint32_t h = 0; h < kKvHeads; ++h)
            for (std::uint32_t t = 0; t < n_tokens; ++t) {
                const reference::IndexKey key =
                    reference::index_key(view(layer), h, t, index.maps.subspan((2 * h + 1) * map, map));
                const std::size_t at = heads[layer * kKvHeads + h].row(t) * dim;
                for (std::uint32_t r = 0; r < dim; ++r) {
                    const std::size_t head = layer * kKvHeads + h;
                    index.keys[at + r] = rounded_to_half(key.value[r]);
                    const std::uint32_t code = nearest_code(*policy.index_codes, head, dim, r, index.keys[at + r]);
                    index.coded[at + r] = value_of_code(*policy.index_codes, head, dim, r, code);
                }
            }
        return index;
    }
    void expect_dense(const std::vector<std::vector<float>>& got) const {
        for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
            reference::Attended ref = reference::attend_dense(queries[layer], view(layer), n_tokens - 1);
            for (double& term : ref.terms) term *= (8 + 2 * std::sqrt(n_tokens)) * 0x1p-24;  // as in attend_dense_test
            expect_close(got[layer], ref.output, ref.terms, fmt::format("layer {}", layer).c_str());
        }
    }

    vk::Device& device;
    std::uint32_t n_tokens;
    KvCache cache;
    vk::Buffer act, partials, attended, counters, state, query;
    std::vector<std::vector<float>> queries, keys, values;
    std::vector<reference::HeadView> heads;
    std::vector<std::vector<std::uint32_t>> lists;  // tokens of the last step, [n_layers][n_kv_heads]
    std::set<std::string> stages;                   // of the last step
};

class AttentionPipelineTest : public GpuTest {};

constexpr std::uint32_t kWideCapacity = 20000;  // many workgroups choose from so many tokens (select_rows)
constexpr std::uint32_t kWaiting = 1000;        // and may wait for each other

// Everything is allowed: whole mass, a budget of all tokens, a window of all tokens, no value skipped.
SparsePolicy everything(std::string_view name, bool by_budget, std::uint32_t n) {
    SparsePolicy p =
        make_preset(name, kFull, by_budget ? SparseOverrides{.budget = n + 1000} : SparseOverrides{.mass = 1});
    if (p.levels.empty()) p.window = n + 1000;
    p.value_skip = 0;
    return p;
}

// The preset with index keys of random projections, their codes or means of their blocks as a filter.
SparsePolicy hisa(bool codes, const SparseOverrides& overrides = {}) {
    constexpr std::uint32_t kIndexDim = 16;
    const std::size_t n_kv = std::size_t{kLayers} * kKvHeads;
    Calibration c;
    c.n_kv_heads = kKvHeads;
    c.head_dim = kDim;
    c.index_dim = kIndexDim;
    c.index_maps = ReplicableRng(5).normals(n_kv * 2 * kIndexDim * kDim, 0, 0.25f);
    c.temperatures.assign(n_kv, 1.0f);
    if (codes) c.codes = random_codes(n_kv, kIndexDim, 2);
    return make_preset("hisa", kFull, overrides, &c);
}

TEST_F(AttentionPipelineTest, WholeMassEqualsDenseForEveryPreset) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        Rig rig(device(), 1200, type);
        for (const char* name : kTrainingFree) {
            // Stages differ by type, presets by what they make of them: compiling takes long.
            if (type == KvType::kF32 && name != std::string_view("exact") && name != std::string_view("quest"))
                continue;
            SCOPED_TRACE(name);
            const AttentionPipeline p = rig.pipeline(everything(name, false, 1200));
            rig.expect_dense(rig.step(p, true, true));
            for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
                const LayerKind kind = p.policy().layers[layer].kind;
                if (kind == LayerKind::kDense || kind == LayerKind::kAnchor) continue;
                for (std::uint32_t h = 0; h < kHeads; ++h) {
                    EXPECT_NEAR(p.audit_records()[layer * kHeads + h].mass, 1, 1e-5);
                    EXPECT_NEAR(p.audit_records()[layer * kHeads + h].without_sinks, 1, 1e-4);
                }
                for (std::uint32_t h = 0; h < kKvHeads; ++h)
                    EXPECT_EQ(p.attended_counts(rig.n_tokens)[layer * kKvHeads + h], 1200u);
            }
        }
    }
}

TEST_F(AttentionPipelineTest, WholeMassEqualsDenseWhereAttentionChooses) {
    Rig rig(device(), 1200, KvType::kF16);
    for (const char* name : {"exact", "quest", "kascade", "delta"}) {
        SCOPED_TRACE(name);
        rig.expect_dense(rig.step(rig.pipeline(everything(name, false, 1200), true)));
    }
}

// The two ways cut at bins of another width: what they keep differs by a few units at most.
TEST_F(AttentionPipelineTest, ChoosingInAttentionKeepsTheSame) {
    Rig rig(device(), 3000, KvType::kF16);
    for (const char* name : {"exact", "quest", "kascade", "delta"}) {
        SCOPED_TRACE(name);
        const AttentionPipeline by_list = rig.pipeline(make_preset(name, kFull), false),
                                in_attend = rig.pipeline(make_preset(name, kFull), true);
        rig.step(by_list);
        const std::vector<std::uint32_t> counts(by_list.attended_counts(rig.n_tokens).begin(),
                                                by_list.attended_counts(rig.n_tokens).end());
        const auto lists = rig.lists;
        const auto first = rig.step(in_attend);
        for (std::size_t i = 0; i < counts.size(); ++i)
            EXPECT_NEAR(in_attend.attended_counts(rig.n_tokens)[i], counts[i], 0.1 * counts[i]) << i;
        for (std::size_t i = 0; i < lists.size(); ++i) {
            std::vector<std::uint32_t> both;
            std::set_intersection(lists[i].begin(), lists[i].end(), rig.lists[i].begin(), rig.lists[i].end(),
                                  std::back_inserter(both));
            EXPECT_GE(both.size(), 0.9 * static_cast<double>(lists[i].size())) << i;
        }
        EXPECT_EQ(rig.step(in_attend), first);  // the same bits
        // So few boxes the stage that attends scores too: a selecting layer has no dispatch more than a dense one.
        const bool scores = in_attend.policy().levels.back().scorer == Scorer::kBox;
        for (std::uint32_t layer = 0; layer < kLayers; ++layer)
            EXPECT_EQ(rig.n_dispatches(in_attend, layer), scores ? 1 : rig.n_dispatches(by_list, layer));
    }
}

// An audit widens one head's budget beyond what its list was made for: its neighbours' lists stay theirs.
TEST_F(AttentionPipelineTest, AWidenedHeadLeavesOthersAlone) {
    Rig rig(device(), 3000, KvType::kF16);
    for (const char* name : {"quest"}) {
        for (const bool steered : {false, true}) {
            for (const bool choose : {false, true}) {
                SparsePolicy policy = make_preset(name, kFull, {.budget = 800});
                policy.steered = steered;
                SCOPED_TRACE(fmt::format("{} steered {} choose {}", name, steered, choose));
                AttentionPipeline p = rig.pipeline(policy, choose);
                rig.step(p, true, true);
                const auto before = rig.lists;
                std::uint32_t layer = 0;
                while (p.policy().layers[layer].kind != LayerKind::kSelect) ++layer;
                p.head_policy(layer, 0, p.policy().levels.size() - 1).budget_max = 0x7fffffff;
                p.reset();
                rig.step(p, true, true);
                for (std::size_t i = 0; i < before.size(); ++i) {
                    if (i != layer * kKvHeads) {
                        EXPECT_EQ(rig.lists[i], before[i]) << "list " << i;
                    }
                }
                if (steered) {
                    EXPECT_GT(rig.lists[layer * kKvHeads].size(), 2 * before[layer * kKvHeads].size());
                }
                for (std::uint32_t h = 0; h < kHeads; ++h)
                    EXPECT_LE(p.audit_records()[layer * kHeads + h].mass, 1 + 1e-5);
            }
        }
    }
}

TEST_F(AttentionPipelineTest, BudgetOfAllTokensEqualsDense) {
    for (const std::uint32_t n : {65u, 1025u, 2500u}) {
        Rig rig(device(), n, KvType::kF16, n == 2500 ? kWideCapacity : n);
        for (const char* name : {"quest", "tidal", "delta", "kascade", "recycled", "tokenselect"}) {
            SCOPED_TRACE(fmt::format("{} {}", name, n));
            rig.expect_dense(rig.step(rig.pipeline(everything(name, true, n))));
        }
    }
}

TEST_F(AttentionPipelineTest, BelowMinCtxTheBitsAreDense) {
    Rig rig(device(), 700, KvType::kF16);
    const auto dense = rig.step(rig.pipeline(make_preset("dense", kFull)), false);
    rig.expect_dense(dense);
    for (const char* name : kTrainingFree)
        EXPECT_EQ(rig.step(rig.pipeline(make_preset(name, kFull)), false), dense) << name;
}

TEST_F(AttentionPipelineTest, TopPIsHonest) {
    for (const KvType type : {KvType::kF16, KvType::kF32}) {
        for (const std::uint32_t n : {600u, 3000u}) {
            Rig rig(device(), n, type, type == KvType::kF16 ? kWideCapacity : n);
            for (const float mass : {0.5f, 0.9f, 0.99f}) {
                SCOPED_TRACE(fmt::format("n {} mass {}", n, mass));
                const AttentionPipeline p = rig.pipeline(make_preset("exact", kFull, {.mass = mass}));
                const auto first = rig.step(p, true, true);
                double share = 0;
                for (std::size_t i = 0; i < std::size_t{kLayers} * kHeads; ++i) {
                    const double got = double{p.audit_records()[i].mass};
                    EXPECT_GE(got, double{mass} - 1e-3);
                    EXPECT_LE(got, 1 + 1e-5);
                }
                for (const std::uint32_t count : p.attended_counts(rig.n_tokens))
                    share += count / double(n) / (kLayers * kKvHeads);
                EXPECT_LT(share, mass == 0.5f && n > 1000 ? 0.5 : 1.1);  // keeping everything would be honest, too
                EXPECT_EQ(rig.step(p, true, true), first);               // the same bits
            }
        }
    }
}

class AttentionPipelineCapacityTest : public AttentionPipelineTest,
                                      public testing::WithParamInterface<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Capacity, AttentionPipelineCapacityTest, testing::Values(3000, kWideCapacity));

TEST_P(AttentionPipelineCapacityTest, PresetsAttendToWhatTheySay) {
    Rig rig(device(), 3000, KvType::kF16, GetParam());
    for (const char* name : kTrainingFree) {
        SCOPED_TRACE(name);
        const AttentionPipeline p = rig.pipeline(make_preset(name, kFull));
        for (const auto& layer : rig.step(p, true, true))
            for (const float x : layer) ASSERT_TRUE(std::isfinite(x));
        const SparsePolicy& policy = p.policy();
        for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
            const LayerSchedule& s = policy.layers[layer];
            if (s.kind == LayerKind::kDense || s.kind == LayerKind::kAnchor) continue;
            const std::uint32_t source = s.kind == LayerKind::kReuse ? s.source : layer;
            for (std::uint32_t h = 0; h < kKvHeads; ++h) {
                const auto& list = rig.lists[source * kKvHeads + h];
                const std::uint32_t n = p.attended_counts(rig.n_tokens)[layer * kKvHeads + h];
                const std::uint32_t end = policy.window > 2999 ? 0 : (3000 - policy.window) / kBlock * kBlock;
                EXPECT_EQ(n, list.size() + std::min(policy.sink, end) + 3000 - end);
            }
        }
    }
}

TEST_F(AttentionPipelineTest, SuperblocksNeedNotFillTheCapacity) {
    for (const std::uint32_t n : {1100u, 1500u, 2111u}) {  // the last superblock's children lie beyond the cache
        SparsePolicy p = make_preset("exact", kFull);
        SelectLevel coarse{.scorer = Scorer::kMean, .unit = 1024, .rule = BudgetRule::kTopP, .mass = 1};
        SelectLevel fine = coarse;
        fine.unit = 64;
        p.levels = {coarse, fine, p.levels[0]};
        p.levels[2].mass = 1;
        Rig rig(device(), n, KvType::kF16);
        SCOPED_TRACE(n);
        rig.expect_dense(rig.step(rig.pipeline(p)));
    }
}

TEST_F(AttentionPipelineTest, ReuseMapsHeads) {
    SparsePolicy p = make_preset("exact", kFull, {.mass = 0.6f});
    for (std::uint32_t layer = 1; layer < kLayers; ++layer) p.layers[layer] = {LayerKind::kReuse, 0, {1, 0}};
    Rig rig(device(), 1500, KvType::kF16);
    const AttentionPipeline pipeline = rig.pipeline(p);
    rig.step(pipeline);
    for (std::uint32_t layer = 1; layer < kLayers; ++layer) {
        EXPECT_EQ(pipeline.attended_counts(rig.n_tokens)[layer * kKvHeads], pipeline.attended_counts(rig.n_tokens)[1]);
        EXPECT_EQ(pipeline.attended_counts(rig.n_tokens)[layer * kKvHeads + 1],
                  pipeline.attended_counts(rig.n_tokens)[0]);
        EXPECT_EQ(rig.n_dispatches(pipeline, layer), 1u);
    }
    EXPECT_NE(pipeline.attended_counts(rig.n_tokens)[0], pipeline.attended_counts(rig.n_tokens)[1]);
    EXPECT_EQ(rig.n_dispatches(pipeline, 0), 2u);
}

TEST_F(AttentionPipelineTest, TinyContextsWithValueSkip) {
    for (const std::uint32_t n :
         {1u, 2u, 10u, 17u, 64u}) {  // a share of 16.5 / n of the maximum is more than all of it
        Rig rig(device(), n, KvType::kF16);
        for (const auto& layer : rig.step(rig.pipeline(make_preset("blasst", kFull, {.min_ctx = 0}))))
            for (const float x : layer) ASSERT_TRUE(std::isfinite(x)) << n;
    }
}

TEST_P(AttentionPipelineCapacityTest, PlansItsMemoryToTheByte) {
    Rig rig(device(), 1500, KvType::kF16, GetParam());
    for (const char* name : kTrainingFree) {
        const AttentionPipeline p = rig.pipeline(make_preset(name, kFull));
        EXPECT_EQ(p.bytes(), AttentionPipeline::bytes_needed(kShape, rig.cache.layout(), p.policy(),
                                                             select_splits(device().is_cpu(), kKvHeads, GetParam())))
            << name;
    }
}

TEST_F(AttentionPipelineTest, ManyTokensTakeTwoMoreDispatchesOrOne) {
    Rig narrow(device(), 100, KvType::kF16), wide(device(), 100, KvType::kF16, kWideCapacity);
    EXPECT_EQ(narrow.n_dispatches(narrow.pipeline(make_preset("exact", kFull)), 0), 2u);
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(make_preset("exact", kFull), {}, 0), 0), 4u);
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(make_preset("exact", kFull), {}, kWaiting), 0), 3u);
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(make_preset("exact", kFull), {}, 1), 0), 4u);  // too few to wait
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(make_preset("quest", kFull), false), 2), 2u);  // blocks are few
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(make_preset("twilight", kFull)), 2), 3u);      // every head for itself
}

// How many workgroups wait for each other, or none, is not seen in what they choose.
TEST_F(AttentionPipelineTest, WaitingChangesNothing) {
    Rig rig(device(), 3000, KvType::kF16, kWideCapacity);
    const auto apart = rig.step(rig.pipeline(make_preset("exact", kFull), {}, 0));
    const std::uint32_t all = select_splits(device().is_cpu(), kKvHeads, kWideCapacity);
    for (const std::uint32_t most_waiting : {1u, (all + 1) / 2, all - 1, kWaiting})
        EXPECT_EQ(rig.step(rig.pipeline(make_preset("exact", kFull), {}, most_waiting)), apart);
}

// Codes are a level of all tokens, so that they take two more, or one where workgroups wait; what they let through is
// few again, and then needs no dispatch to be scored.
TEST_F(AttentionPipelineTest, CodesTakeTwoMoreDispatchesOfManyTokens) {
    Rig narrow(device(), 100, KvType::kF16), wide(device(), 100, KvType::kF16, kWideCapacity);
    for (const bool choose : {false, true}) {  // attention's choice is its own dispatch, as the list's is the level's
        SCOPED_TRACE(choose);
        const std::uint32_t keys = choose ? 0 : 1;  // scored where attention chooses from them
        EXPECT_EQ(narrow.n_dispatches(narrow.pipeline(hisa(true), choose), 0), 2u + keys);
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(hisa(true), choose, 0), 0), 5u);
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(hisa(false), choose, 0), 0), 3u);  // blocks are few
        SparsePolicy steered = hisa(true);
        steered.steered = true;
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(steered, choose, 0), 0), 5u);
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(hisa(true), choose, kWaiting), 0), 3u + keys);
        // So large a budget that the filter lets through more than one workgroup chooses from.
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(hisa(true, {.budget = 8000}), choose, 0), 0), 7u);
    }
}

// As a GPU has it: codes choose, and attention itself among the tokens that they let through.
TEST_F(AttentionPipelineTest, AttentionChoosesAmongWhatCodesLetThrough) {
    constexpr std::uint32_t kTokens = 3000;
    SparsePolicy policy = hisa(true);
    policy.levels[0].budget = 600;
    policy.levels[1].budget = 400;
    SelectLevel filter = policy.levels[0], last = policy.levels[1];
    last.budget -= policy.sink + policy.window;
    for (const auto& [capacity, most_waiting] :
         {std::pair{kTokens, 0u}, {kWideCapacity, 0u}, {kTokens, kWaiting}, {kWideCapacity, kWaiting}}) {
        SCOPED_TRACE(fmt::format("capacity {} waiting {}", capacity, most_waiting));
        Rig rig(device(), kTokens, KvType::kF16, capacity);
        const AttentionPipeline p = rig.pipeline(policy, true, most_waiting);
        const auto got = rig.step(p);
        ASSERT_TRUE(rig.stages.count("select_attend") == 1 && rig.stages.count("attend_sparse") == 0);
        EXPECT_EQ(rig.stages.count("select_rows"), capacity == kWideCapacity ? 1u : 0u);
        for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
            const IndexRows index = rig.index_rows(policy, layer);
            const reference::SelectView view{rig.view(layer), rig.queries[layer], kTokens - 1, policy.sink,
                                             policy.window,   policy.pool,        16,          index.maps,
                                             index.keys,      index.coded};
            for (std::uint32_t h = 0; h < kKvHeads; ++h) {
                SCOPED_TRACE(fmt::format("layer {} kv head {}", layer, h));
                const auto chosen = [&](const std::vector<SelectLevel>& levels) {
                    std::vector<std::uint32_t> units;
                    std::vector<double> dropped;
                    for (std::size_t i = 0; i < levels.size(); ++i) {
                        const reference::Level scored = indexer_score(view, levels[i], h, i == 0 ? nullptr : &units,
                                                                      i == 0 ? 0 : levels[i - 1].unit, dropped);
                        const auto kept = keep_rows(scored, levels[i], levels[i].budget);
                        dropped = dropped_mass(scored, kept);
                        units.clear();
                        for (const std::size_t place : kept) units.push_back(scored.rows[place].unit);
                        std::sort(units.begin(), units.end());
                    }
                    return units;
                };
                const auto in_common = [&](const std::vector<std::uint32_t>& wanted) {
                    const std::vector<std::uint32_t>& list = rig.lists[layer * kKvHeads + h];
                    EXPECT_EQ(list.size(), wanted.size());
                    std::vector<std::uint32_t> both;
                    std::set_intersection(list.begin(), list.end(), wanted.begin(), wanted.end(),
                                          std::back_inserter(both));
                    return both.size();
                };
                // Ranks that one bin holds fall to lower ids: some dozen rows lie within 1/128 nat of the cuts.
                EXPECT_GE(in_common(chosen({filter, last})) + 12, last.budget);
                EXPECT_LT(in_common(chosen({last})) + 24, last.budget) << "codes choose nothing here";
            }
            const std::vector<std::vector<std::uint32_t>> lists(rig.lists.begin() + layer * kKvHeads,
                                                                rig.lists.begin() + (layer + 1) * kKvHeads);
            const reference::Attended ref = select_attend(view, lists, 1);
            expect_close(got[layer], ref.output, allowances(ref.terms, 8 + std::sqrt(kTokens / 4.0)), "attended");
        }
    }
}

// A share of the cache below the block filter, as calibration sets it, and an audit that might widen it: few rows come
// through all the same.
TEST_F(AttentionPipelineTest, FewTokensBehindAFilterTakeNone) {
    Rig wide(device(), 100, KvType::kF16, kWideCapacity);
    SparsePolicy p = make_preset("twilight", kFull);
    p.pool = HeadPool::kMax;
    ASSERT_GT(p.levels[0].budget_share, 0);
    for (const bool steered : {false, true}) {
        p.steered = steered;
        EXPECT_EQ(wide.n_dispatches(wide.pipeline(p), 2), 3u) << steered;
    }
    p.levels[0].budget_share = 1;
    EXPECT_EQ(wide.n_dispatches(wide.pipeline(p, {}, 0), 2), 5u);
}

TEST_F(AttentionPipelineTest, PlansIndexKeysToTheByte) {
    Rig rig(device(), 1500, KvType::kF16);
    for (const IndexType type : {IndexType::kF16, IndexType::kInt8}) {
        for (const std::string name : {"hisa", "hisa with codes", "rtpurbo"}) {
            SparsePolicy policy = make_preset(name.substr(0, name.find(' ')), kFull);
            policy.index_dim = 16;
            policy.index_type = type;
            if (name == "hisa with codes") {
                policy.levels[0].scorer = Scorer::kCodes;
                policy.levels[0].unit = 1;
                policy.index_codes = std::make_shared<IndexCodes>(random_codes(kLayers * kKvHeads, 16, 1));
            }
            const std::vector<float> maps(std::size_t{kLayers} * kKvHeads * 2 * 16 * kDim, 0.1f);
            const AttentionPipeline p(device(), kShape, rig.cache,
                                      {rig.state, rig.act, rig.partials, rig.counters, rig.attended, rig.act}, kSplits,
                                      policy, maps);
            EXPECT_EQ(p.bytes(), AttentionPipeline::bytes_needed(kShape, rig.cache.layout(), p.policy(),
                                                                 select_splits(device().is_cpu(), kKvHeads, 1500)))
                << name;
        }
    }
}

TEST_F(AttentionPipelineTest, RefusesBadPolicies) {
    Rig rig(device(), 100, KvType::kF16);
    const auto refused = [&](SparsePolicy p) {
        try {
            rig.pipeline(p);
            ADD_FAILURE() << "accepted";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        }
    };
    refused(make_preset("exact", kFull, {.mass = 0}));
    refused(make_preset("exact", kFull, {.mass = 1.5f}));
    refused(make_preset("quest", kFull, {.budget = 60}));
    refused(make_preset("rtpurbo", kFull));  // without index keys
    SparsePolicy p = make_preset("exact", kFull);
    p.layers[3] = {LayerKind::kReuse, 4, {}};
    refused(p);
    p.layers[3] = {LayerKind::kReuse, 2, {0, 2}};
    refused(p);
}

}  // namespace
}  // namespace winnow::test
