// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "runtime/attention/indexer_score.h"
#include "runtime/decode/audit_controller.h"
#include "runtime/kv/index_codes.h"
#include "shaders/common/interface.h"
#include "winnow/sparse.h"

namespace winnow {
namespace {

constexpr std::uint32_t kBlock = 64;
constexpr std::uint32_t kSuper = WINNOW_SUPER_TOKENS;

SelectLevel top_k(Scorer scorer, std::uint32_t unit, std::uint32_t budget) {
    SelectLevel level;
    level.scorer = scorer;
    level.unit = unit;
    level.rule = BudgetRule::kTopK;
    level.budget = budget;
    return level;
}

SelectLevel top_p(Scorer scorer, std::uint32_t unit, float mass) {
    SelectLevel level;
    level.scorer = scorer;
    level.unit = unit;
    level.rule = BudgetRule::kTopP;
    level.mass = mass;
    return level;
}

// Every full layer after the first `n_dense` selects for itself.
void every_layer_selects(SparsePolicy& p, const std::vector<bool>& windowed, std::uint32_t n_dense) {
    p.layers.assign(windowed.size(), {});
    std::uint32_t n_full = 0;
    for (std::size_t i = 0; i < windowed.size(); ++i) {
        if (windowed[i]) continue;
        if (n_full++ >= n_dense) p.layers[i].kind = LayerKind::kSelect;
    }
}

// Full layers: the first `n_dense` dense, then anchors at these shares of the rest, the others reuse the anchor before
// them.
void anchors_lend(SparsePolicy& p, const std::vector<bool>& windowed, std::uint32_t n_dense, LayerKind anchor,
                  std::initializer_list<double> shares) {
    p.layers.assign(windowed.size(), {});
    std::vector<std::uint32_t> full;
    for (std::uint32_t i = 0; i < windowed.size(); ++i)
        if (!windowed[i]) full.push_back(i);
    if (full.size() <= n_dense) return;
    const std::size_t n = full.size() - n_dense;
    std::vector<bool> is_anchor(full.size());
    is_anchor[n_dense] = true;
    for (const double share : shares)
        is_anchor[n_dense + std::min(n - 1, static_cast<std::size_t>(share * static_cast<double>(n)))] = true;
    std::uint32_t last = 0;
    for (std::size_t i = n_dense; i < full.size(); ++i) {
        LayerSchedule& layer = p.layers[full[i]];
        if (is_anchor[i]) {
            layer.kind = anchor;
            last = full[i];
        } else {
            layer.kind = LayerKind::kReuse;
            layer.source = last;
        }
    }
}

// A layer that attends to everything, and whose list nobody borrows, has no use for one.
void idle_anchors_are_dense(SparsePolicy& p) {
    for (std::uint32_t i = 0; i < p.layers.size(); ++i) {
        if (p.layers[i].kind != LayerKind::kAnchor) continue;
        const bool lends = std::any_of(p.layers.begin(), p.layers.end(), [&](const LayerSchedule& layer) {
            return layer.kind == LayerKind::kReuse && layer.source == i;
        });
        if (!lends) p.layers[i] = {};
    }
}

// Anchors that calibration found: the full layers after each reuse its lists through the head maps, [n_layers,
// n_kv_heads].
void found_anchors_lend(SparsePolicy& p, const std::vector<bool>& windowed, LayerKind anchor,
                        const std::vector<std::uint32_t>& anchors, const std::vector<std::uint32_t>& maps) {
    const auto n_kv = static_cast<std::ptrdiff_t>(maps.size() / windowed.size());
    p.layers.assign(windowed.size(), {});
    const std::uint32_t* source = nullptr;
    std::size_t next = 0;
    for (std::uint32_t i = 0; i < windowed.size(); ++i) {
        if (windowed[i]) continue;
        LayerSchedule& layer = p.layers[i];
        if (next < anchors.size() && anchors[next] == i) {
            source = &anchors[next++];
            layer.kind = anchor;
        } else if (source != nullptr) {
            layer.kind = LayerKind::kReuse;
            layer.source = *source;
            const auto from = maps.begin() + i * n_kv;
            layer.head_map.assign(from, from + n_kv);
        }
    }
}

// Heads that do not retrieve see sinks and a window only; a layer of nothing else selects nothing.
void local_heads(SparsePolicy& p, const std::vector<bool>& windowed, const Calibration& c) {
    p.local_heads.assign(c.full_heads.size(), 0);
    for (std::size_t i = 0; i < windowed.size(); ++i) {
        if (windowed[i]) continue;
        bool any_full = false;
        for (std::size_t h = i * c.n_kv_heads; h < (i + 1) * c.n_kv_heads; ++h) {
            p.local_heads[h] = c.full_heads[h] != 0 ? 0 : 1;
            any_full = any_full || c.full_heads[h] != 0;
        }
        if (!any_full) p.layers[i].kind = LayerKind::kWindowOnly;
    }
}

// What calibration measured to reach its target mass. A coarse level lets more than twice as much through, or what it
// always does.
void use_setting(SparsePolicy& p, const Calibration& c) {
    const auto found =
        std::find_if(c.settings.begin(), c.settings.end(), [&](const PresetSetting& s) { return s.preset == p.name; });
    if (found == c.settings.end() || p.levels.empty()) return;
    SelectLevel& last = p.levels.back();
    if (last.rule == BudgetRule::kTopP) {
        if (found->mass > 0) last.mass = found->mass;
        return;
    }
    last.budget = std::max(found->budget, p.sink + p.window);
    last.budget_share = found->budget_share;
    for (std::size_t i = 0; i + 1 < p.levels.size(); ++i) {
        const double ratio = coarse_ratio(p.levels[i]);
        p.levels[i].budget = std::max(p.levels[i].budget, static_cast<std::uint32_t>(ratio * last.budget));
        p.levels[i].budget_share =
            std::max(p.levels[i].budget_share, std::min(static_cast<float>(ratio) * last.budget_share, 1.0f));
    }
}

// Index maps with the temperature folded into the query's side, or rows that pick the dimensions of the chosen RoPE
// pairs.
void use_index(SparsePolicy& p, const Calibration& c, bool pairs) {
    p.index_dim = c.index_dim;
    auto maps = std::make_shared<std::vector<float>>(c.index_maps);
    const std::size_t size = std::size_t{c.index_dim} * c.head_dim;
    for (std::size_t head = 0; head < c.temperatures.size(); ++head) {
        float* query = maps->data() + head * 2 * size;
        if (pairs) {
            std::fill(query, query + 2 * size, 0.0f);
            for (std::uint32_t r = 0; r < c.index_dim; ++r) {
                const std::size_t at = r * c.head_dim + c.index_pairs[head * c.index_dim + r];
                query[at] = query[size + at] = 1;
            }
        } else {
            for (std::size_t i = 0; i < size; ++i) query[i] *= c.temperatures[head];
        }
    }
    p.index_maps = std::move(maps);
    p.needs_sidecar = false;
}

}  // namespace

const std::vector<std::string>& tuned_presets() {
    static const std::vector<std::string> names{"rtpurbo", "hisa", "fasa", "kascade", "quest", "twilight"};
    return names;
}

bool uses_calibration(std::string_view preset) {
    const std::vector<std::string>& tuned = tuned_presets();
    return std::find(tuned.begin(), tuned.end(), preset) != tuned.end() || preset == "duo" || preset == "razor" ||
           preset == "hylra" || preset == "auto";
}

const std::vector<PresetInfo>& sparse_presets() {
    static const std::vector<PresetInfo> presets{
        {"dense", "-", "-", "everything", "every layer dense", "-"},
        {"streaming", "-", "-", "sink 4, window 1024", "every layer window only", "StreamingLLM, 2309.17453"},
        {"exact", "exact keys", "-", "attention mass 0.95", "every layer selects", "oracle of the others"},
        {"quest", "box of 16", "-", "top 2048 tokens", "first 2 layers dense", "Quest, 2406.10774"},
        {"twilight", "exact keys, each head", "box of 16, a quarter", "attention mass 0.95", "first 2 layers dense",
         "Twilight, 2502.02770"},
        {"tidal", "exact keys, each head", "-", "top 256 tokens", "first 2 layers dense, 2 anchors lend",
         "TidalDecode, 2410.05076"},
        {"delta", "exact keys", "-", "top 1024 tokens, window 128", "first 2 layers dense, 3 anchors lend",
         "DELTA, 2510.09883"},
        {"kascade", "exact keys, mean of heads", "-", "top 10 %, at least 128", "first layer dense, 5 anchors lend",
         "Kascade, 2512.16391"},
        {"hylra", "exact keys, mean of heads", "-", "top 2048 tokens",
         "first layer dense, 4 anchors lend; a calibration puts them where lists overlap by less than 0.85",
         "HyLRA, 2602.00777"},
        {"recycled", "exact keys", "-", "top 4096 tokens", "every layer, every 50 tokens or cosine < 0.8",
         "Recycled Attention, 2411.05787"},
        {"tokenselect", "exact keys, mean of heads", "-", "top 2048, sink 128, window 512",
         "every layer, again when cosine < 0.9", "TokenSelect, 2411.02886"},
        {"blasst", "exact keys (in the kernel)", "-", "values below a share of the maximum are not read", "every layer",
         "BLASST, 2512.12087"},
        {"hisa", "index keys", "codes of index keys (older sidecars: block means of index keys)", "top 2048 tokens",
         "every layer selects", "HISA, 2603.28458"},
        {"rtpurbo", "index keys", "-", "attention mass 0.9", "retrieval heads select, the others window only",
         "RTPurbo, 2605.16928"},
        {"fasa", "index keys (RoPE pairs)", "-", "top 256 tokens", "first 2 layers dense", "FASA, 2602.03152"},
        {"duo", "-", "-", "everything, or sink 4 and a window", "retrieval heads dense, the others window only",
         "DuoAttention, 2410.10819"},
        {"razor", "-", "-", "everything, or sink 4 and a fifth", "retrieval heads dense, the others window only",
         "RazorAttention, 2407.15891"},
        {"auto", "the best measured one", "", "", "", "-"},
    };
    return presets;
}

SparsePolicy make_preset(std::string_view name, const std::vector<bool>& windowed, const SparseOverrides& overrides,
                         const Calibration* calibration) {
    SparsePolicy p;
    float recommended_mass = 0;
    if (name == "auto") {
        name = "exact";
        if (calibration != nullptr && !calibration->preset.empty()) {
            name = calibration->preset;
            recommended_mass = calibration->mass;
        }
    }
    p.name = name == "off" ? "dense" : std::string(name);
    p.min_ctx = 512;
    // Full layers at the beginning that stay dense.
    const auto first_dense = [&](std::uint32_t n) { return overrides.every_layer ? 0 : n; };
    if (p.name == "dense") {
        p.layers.assign(windowed.size(), {});
    } else if (p.name == "streaming") {
        p.window = 1024;
        p.layers.assign(windowed.size(), {});
        for (std::size_t i = 0; i < windowed.size(); ++i)
            if (!windowed[i]) p.layers[i].kind = LayerKind::kWindowOnly;
    } else if (p.name == "exact") {
        p.levels = {top_p(Scorer::kExact, 1, 0.95f)};
        every_layer_selects(p, windowed, 0);
    } else if (p.name == "quest") {
        p.levels = {top_k(Scorer::kBox, 16, 2048)};
        every_layer_selects(p, windowed, first_dense(2));
    } else if (p.name == "twilight") {
        p.levels = {top_k(Scorer::kBox, 16, 256), top_p(Scorer::kExact, 1, 0.95f)};
        p.levels[0].budget_share = 0.25f;
        p.pool = HeadPool::kEach;
        every_layer_selects(p, windowed, first_dense(2));
    } else if (p.name == "tidal") {
        p.levels = {top_k(Scorer::kExact, 1, 256)};
        p.pool = HeadPool::kEach;
        anchors_lend(p, windowed, first_dense(2), LayerKind::kAnchor, {0.4});
    } else if (p.name == "delta") {
        p.levels = {top_k(Scorer::kExact, 1, 1024)};
        p.window = 128;
        anchors_lend(p, windowed, first_dense(2), LayerKind::kAnchor, {0.45, 0.8});
    } else if (p.name == "kascade") {
        p.levels = {top_k(Scorer::kExact, 1, 128)};
        p.levels[0].budget_share = 0.1f;
        p.pool = HeadPool::kMean;
        if (calibration != nullptr && !calibration->anchors.empty())
            found_anchors_lend(p, windowed, LayerKind::kSelect, calibration->anchors, calibration->head_maps);
        else anchors_lend(p, windowed, first_dense(1), LayerKind::kSelect, {0.05, 0.25, 0.45, 0.7});
    } else if (p.name == "hylra") {
        p.levels = {top_k(Scorer::kExact, 1, 2048)};
        p.pool = HeadPool::kMean;
        if (calibration != nullptr && !calibration->refresh_layers.empty())
            found_anchors_lend(p, windowed, LayerKind::kAnchor, calibration->refresh_layers, calibration->refresh_maps);
        else anchors_lend(p, windowed, first_dense(1), LayerKind::kAnchor, {0.25, 0.5, 0.75});
    } else if (p.name == "recycled") {
        p.levels = {top_k(Scorer::kExact, 1, 4096)};
        p.refresh = 50;
        p.cosine = 0.8f;
        every_layer_selects(p, windowed, 0);
    } else if (p.name == "tokenselect") {
        p.levels = {top_k(Scorer::kExact, 1, 2048)};
        p.pool = HeadPool::kMean;
        p.sink = 128;
        p.window = 512;
        p.refresh = 64;
        p.cosine = 0.9f;
        every_layer_selects(p, windowed, 0);
    } else if (p.name == "blasst") {
        p.value_skip = 16.5f;  // the authors' decode scale for half of the values
        p.sink = 0;
        p.window = 0xffffffffu;
        p.layers.assign(windowed.size(), {});
        for (std::size_t i = 0; i < windowed.size(); ++i)
            if (!windowed[i]) p.layers[i].kind = LayerKind::kWindowOnly;
    } else if (p.name == "hisa" || p.name == "rtpurbo" || p.name == "fasa") {
        p.needs_sidecar = true;
        // The paper filters whole blocks, whose scores are those of their mean keys. What our index of a kv head
        // chooses lies scattered: a filter by token finds it for no more bytes (bench/README.md).
        if (p.name == "hisa") {
            p.levels = {top_k(Scorer::kLowdimMean, kBlock, 8192), top_k(Scorer::kLowdim, 1, 2048)};
            if (calibration != nullptr && !calibration->codes.empty()) {
                p.levels.front() = top_k(Scorer::kCodes, 1, 4608);
                p.index_codes = std::make_shared<IndexCodes>(calibration->codes);
            }
        }
        if (p.name == "rtpurbo") {
            p.levels = {top_p(Scorer::kLowdim, 1, 0.9f)};
            // Where the index is too sure of itself. With 256 tokens the needles of SmolLM2 lost 0.101 nats in a
            // context of 8,192.
            p.levels[0].budget_min = 384;
            p.window = 256;
        }
        if (p.name == "fasa") p.levels = {top_k(Scorer::kLowdim, 1, 256)};
        every_layer_selects(p, windowed, p.name == "fasa" ? first_dense(2) : 0);
        if (calibration != nullptr) use_index(p, *calibration, p.name == "fasa");
        if (calibration != nullptr && p.name == "rtpurbo") local_heads(p, windowed, *calibration);
    } else if (p.name == "duo" || p.name == "razor") {
        if (p.name == "razor") {  // the last fifth, never less than 4,000 tokens
            p.local_share = 0.2f;
            p.local_least = 4000;
            p.local_most = 0xffffffffu;
        }
        p.needs_sidecar = calibration == nullptr;
        p.layers.assign(windowed.size(), {});
        if (calibration != nullptr) local_heads(p, windowed, *calibration);
    } else {
        std::vector<std::string_view> names;
        for (const PresetInfo& info : sparse_presets()) names.push_back(info.name);
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("unknown sparse preset '{}'; known are {}", name, fmt::join(names, ", ")));
    }
    idle_anchors_are_dense(p);
    if (calibration != nullptr) use_setting(p, *calibration);
    const bool is_tuned =
        calibration != nullptr && std::any_of(calibration->settings.begin(), calibration->settings.end(),
                                              [&](const PresetSetting& s) { return s.preset == p.name; });
    if (!is_tuned && recommended_mass > 0 && !p.levels.empty() && p.levels.back().rule == BudgetRule::kTopP)
        p.levels.back().mass = recommended_mass;
    if (overrides.mass >= 0 && !p.levels.empty()) {
        p.levels.back().rule = BudgetRule::kTopP;
        p.levels.back().mass = overrides.mass;
        p.levels.back().budget = 0;
        // What a coarse level drops could never be reached, and all of the mass lies in all of the tokens. Codes tell
        // mass nearly as well as the keys do: where no budget says how many tokens are enough, theirs leave out a
        // quarter of what the keys may, however many tokens hold the rest (twice to four times what the keys then
        // keep). Means of blocks tell no mass.
        for (std::size_t i = 0; i + 1 < p.levels.size(); ++i) {
            SelectLevel& coarse = p.levels[i];
            const bool by_codes = coarse.scorer == Scorer::kCodes && overrides.budget == 0;
            if (overrides.mass < 1 && !by_codes) continue;
            coarse.rule = BudgetRule::kTopP;
            coarse.mass = overrides.mass < 1 ? 1 - (1 - overrides.mass) / 4 : 1;
            coarse.budget = 0;
            coarse.budget_share = 0;
        }
    }
    if (overrides.budget > 0 && !p.levels.empty()) {
        SelectLevel& last = p.levels.back();
        last.budget = overrides.budget;
        last.budget_share = 0;
        for (SelectLevel& level : p.levels)  // a coarse level lets through what the last one may keep
            if (level.budget != 0)
                level.budget =
                    std::max(level.budget, level.scorer == Scorer::kCodes
                                               ? static_cast<std::uint32_t>(std::min(
                                                     coarse_ratio(level) * overrides.budget, double{0x7fffffff}))
                                               : overrides.budget);
    }
    if (overrides.block != 0) {
        if (overrides.block != 16 && overrides.block != 32 && overrides.block != 64)
            throw Error(ErrorCode::kInvalidArgument,
                        fmt::format("blocks of {} tokens; use 16, 32 or 64", overrides.block));
        for (SelectLevel& level : p.levels)
            if (level.scorer == Scorer::kBox || level.scorer == Scorer::kMean) level.unit = overrides.block;
    }
    // With fewer tokens than its budget a preset would select them all.
    if (!p.levels.empty() && p.levels.back().rule == BudgetRule::kTopK && p.levels.back().budget_share == 0)
        p.min_ctx = std::max(p.min_ctx, p.levels.back().budget);
    if (overrides.index_type) p.index_type = *overrides.index_type;
    p.compensate = overrides.compensate;
    if (overrides.sink >= 0) p.sink = static_cast<std::uint32_t>(overrides.sink);
    if (overrides.window >= 0) p.window = p.local_window = static_cast<std::uint32_t>(overrides.window);
    if (overrides.min_ctx >= 0) p.min_ctx = static_cast<std::uint32_t>(overrides.min_ctx);
    return p;
}

void SparsePolicy::check(std::uint32_t n_layers, std::uint32_t n_kv_heads) const {
    const auto bad = [&](const std::string& what) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("sparse policy '{}': {}", name, what));
    };
    if (layers.size() != n_layers) bad(fmt::format("has {} layers, the model {}", layers.size(), n_layers));
    for (std::size_t i = 0; i < levels.size(); ++i) {
        const SelectLevel& level = levels[i];
        if (!(level.mass > 0 && level.mass <= 1))
            bad(fmt::format("attention mass {} is outside (0, 1]: give more than 0, and 1 at most", level.mass));
        if (!(level.budget_share >= 0 && level.budget_share <= 1)) bad("the budget share is outside 0 to 1");
        if (!(level.threshold >= 0))
            bad(fmt::format("a threshold of {} is no probability: give 0 or more", level.threshold));
        if (level.rule == BudgetRule::kTopK && level.budget == 0) bad("top-k needs a budget");
        if (level.budget != 0 && level.budget < std::uint64_t{sink} + window && i + 1 == levels.size())
            bad(fmt::format(
                "the budget of {} tokens is below sink + window ({} + {}): give a larger budget or fewer of those",
                level.budget, sink, window));
        const bool tokens =
            level.scorer == Scorer::kExact || level.scorer == Scorer::kLowdim || level.scorer == Scorer::kCodes;
        if (tokens != (level.unit == 1))
            bad("token scorers score units of 1, block scorers units of 16, 32, 64 or 1024");
        if (!tokens && level.unit != 16 && level.unit != 32 && level.unit != kBlock && level.unit != kSuper)
            bad(fmt::format("a unit of {} tokens is not 16, 32, 64 or 1024", level.unit));
        if (level.scorer == Scorer::kLowdimMean && level.unit == kSuper) bad("index means exist for blocks only");
        // Codes are a coarse level of the same tokens.
        const bool same = i > 0 && levels[i - 1].unit == level.unit;
        if (i > 0 && (levels[i - 1].unit < level.unit || levels[i - 1].unit % level.unit != 0 ||
                      (same && (levels[i - 1].scorer != Scorer::kCodes || level.scorer == Scorer::kCodes))))
            bad("levels must go from coarse to fine units that nest");
        if (IndexerScore::is_indexed(level.scorer) && index_dim == 0) bad("an index scorer needs index_dim");
        if (level.scorer == Scorer::kCodes) {
            const std::string fault = index_codes
                                          ? code_fault(*index_codes, std::size_t{n_layers} * n_kv_heads, index_dim)
                                          : "scores codes and has no index_codes";
            if (!fault.empty()) bad(fault);
        }
    }
    if (!(value_skip >= 0)) bad(fmt::format("a value skip of {}: give 0 (off) or more", value_skip));
    if (!(cosine >= 0))
        bad(fmt::format("a cosine of {} would never select anew: give 0 to 1, or more than 1 (off)", cosine));
    if (index_dim % 8 != 0) bad(fmt::format("an index_dim of {} is no multiple of 8", index_dim));
    std::uint32_t block_unit = 0;
    for (const SelectLevel& level : levels) {
        if (level.unit == 1 || level.unit == kSuper) continue;
        if (block_unit != 0 && block_unit != level.unit) bad("block levels must share one block size");
        block_unit = level.unit;
    }
    if (!local_heads.empty() && local_heads.size() != std::size_t{n_layers} * n_kv_heads)
        bad(fmt::format("has roles for {} kv heads, not {}", local_heads.size(), n_layers * n_kv_heads));
    const auto narrow = [](const LayerSchedule& layer) { return layer.kind == LayerKind::kWindowOnly; };
    if (window == 0 && (std::any_of(layers.begin(), layers.end(), narrow) || has_local_heads()))
        bad("it has heads that see only sinks and a window, and the window is 0: give at least 1 (--sparse-window)");
    if (compensate && !has_local_heads()) bad("--sparse-compensation is for razor, duo and rtpurbo: leave it out");
    for (std::uint32_t i = 0; i < n_layers; ++i) {
        const LayerSchedule& layer = layers[i];
        if (layer.selects() && levels.empty()) bad(fmt::format("layer {} selects but there is no level", i));
        if (layer.kind != LayerKind::kReuse) continue;
        if (layer.source >= i)
            bad(fmt::format("layer {} reuses layer {}, which comes later: name one before it", i, layer.source));
        if (!layers[layer.source].selects())
            bad(fmt::format("layer {} reuses layer {}, which selects nothing", i, layer.source));
        if (!layer.head_map.empty() && layer.head_map.size() != n_kv_heads)
            bad(fmt::format("the head map of layer {} has {} entries, not {}", i, layer.head_map.size(), n_kv_heads));
        for (const std::uint32_t head : layer.head_map)
            if (head >= n_kv_heads)
                bad(fmt::format("the head map of layer {} names kv head {} of {}", i, head, n_kv_heads));
    }
}

}  // namespace winnow
