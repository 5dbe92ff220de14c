// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "examples/winnow/commands.h"
#include "examples/winnow/device_facts.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/model_facts.h"
#include "examples/winnow/terminal.h"
#include "models/model.h"
#include "models/session_plan.h"
#include "runtime/vk/device.h"
#include "runtime/vk/quirks.h"
#include "winnow/version.h"

namespace winnow::program {
namespace {

using nlohmann::json;

// The device opened, and what its stages choose.
struct DeviceFacts {
    DeviceInfo info;
    std::string features;                       // those that it has, in words
    std::vector<std::string> present, missing;  // optional features
    std::string cache_variant;
    std::vector<VariantChoice> variants;
};

DeviceFacts device_facts(vk::Device& device, KvType kv_type, const ModelShape& shape, std::uint32_t n_ctx) {
    return {device.info(),
            features_text(device),
            feature_names(device, true),
            feature_names(device, false),
            cache_variant(kv_type),
            variant_choices(device, kv_type, shape, n_ctx)};
}

// The cache's bytes by what its heads keep.
struct CacheParts {
    std::uint64_t full_bytes = 0;  // heads that keep every token
    std::uint64_t ring_bytes = 0;  // sinks and a ring of recent tokens
    std::uint64_t table_bytes = 0;
    std::uint64_t sum_bytes = 0;  // of what left the windows (--sparse-compensation)
};

// What a context costs on the chosen device.
struct Plan {
    DeviceFacts device;
    ModelShape shape;
    MemoryPlan memory;
    std::uint64_t card_bytes = 0;  ///< of --fit; 0: it is the device that is there
    std::uint32_t n_ctx = 0, n_chunk = 0;
    std::uint32_t n_dependent_dispatches = 0;  ///< 0 = not known: no step was recorded
    bool fits = true;                          ///< into the device
    std::uint64_t dense_f16_bytes = 0;         ///< keys and values of dense attention in f16
    float full_share = 1;                      ///< kv heads that keep every token
    bool share_assumed = false;                ///< nothing is known of the model's heads
    CacheParts cache;
    bool beyond_driver = false;  ///< longer than a software driver can do
};

// What the plan is for: a file, or a shape that has none.
struct Subject {
    std::string file;  ///< empty without one
    std::uint64_t file_bytes = 0;
    ModelFacts facts;
};

CacheParts cache_parts(const ModelSource& model, const SessionOptions& options, const ResolvedOptions& resolved) {
    const SparsePolicy policy = resolve_policy(model.shape, with_calibration(model, options.sparse), options.kv_type);
    const KvLayout layout(kv_config(model.shape, options.kv_type, resolved.n_ctx, resolved.n_chunk, policy));
    CacheParts parts;
    for (std::uint32_t layer = 0; layer < model.shape.n_layers; ++layer) {
        const std::uint64_t n_full = layout.full_blocks(layer);
        parts.full_bytes += 2 * n_full * layout.block_bytes();
        parts.ring_bytes += 2 * (layout.layer_blocks(layer) - n_full) * layout.block_bytes();
    }
    parts.sum_bytes = EvictedSums::bytes_needed(layout.config());
    parts.table_bytes = resolved.memory.kv_bytes - layout.total_bytes() - parts.sum_bytes;
    return parts;
}

// Sizes alone: nothing is loaded or allocated.
Plan make_plan(const Options& options, const ModelSource& model) {
    const SessionOptions session = session_options(options, model.shape, context_size(options, 0));
    const std::unique_ptr<vk::Device> device = vk::Device::open(session.device);
    const std::uint64_t card_bytes =
        options.fit.empty() || options.fit == "device" ? 0 : parse_size(options.fit, "--fit");
    const ResolvedOptions resolved = options.fit.empty() ? plan_session(*device, model, session, false)
                                                         : fit_session(*device, model, session, card_bytes);
    return {device_facts(*device, session.kv_type, model.shape, resolved.n_ctx),
            model.shape,
            resolved.memory,
            card_bytes,
            resolved.n_ctx,
            resolved.n_chunk,
            0,
            resolved.fits,
            resolved.dense_f16_bytes,
            resolved.full_share,
            model.file == nullptr && resolved.full_share < 1 && uses_calibration(options.sparse.preset),
            cache_parts(model, session, resolved),
            device->is_cpu() && card_bytes == 0 && resolved.n_ctx > vk::kSoftwareMaxContext};
}

// The one place that loads the model for this; the number of dispatches is that of a step really
// recorded. What cannot be opened stays a plan.
Plan make_plan(const Options& options, const Vocabulary& vocabulary) {
    Plan plan = make_plan(options, open_model(vocabulary.path.string()));
    if (!plan.fits || plan.beyond_driver) return plan;
    const std::unique_ptr<Session> session = open_session(options, vocabulary, context_size(options, 0));
    plan.memory = session->memory();
    plan.n_ctx = session->n_ctx();
    plan.n_chunk = session->n_chunk();
    plan.n_dependent_dispatches = session->n_dependent_dispatches();
    return plan;
}

// All devices, once it is known that the flags do not ask for one that is not there.
std::vector<DeviceInfo> need_devices(const Options& options) {
    std::vector<DeviceInfo> devices = list_devices();
    if (devices.empty()) {
        throw Error(ErrorCode::kNoDevice, "no Vulkan device: install a driver (mesa-vulkan-drivers has one for CPUs)");
    }
    if (!options.device.empty()) choose_device(devices, options.device);
    return devices;
}

std::string device_line(const DeviceInfo& device) {
    std::string line = fmt::format("{}: {} ({}, {}, Vulkan {}, {}, subgroup {})", device.index, device.name,
                                   device_type_name(device.type), size_text(device.memory_bytes),
                                   version_text(device.api_version), device.driver, device.subgroup_size);
    if (!device.unusable_reason.empty()) line += " - not usable: " + device.unusable_reason;
    return line;
}

std::string features_and_variants(const DeviceFacts& facts) {
    std::string text = fmt::format("features   {}", facts.features);
    if (!facts.missing.empty()) text += fmt::format("; not {}", fmt::join(facts.missing, ", "));
    text += fmt::format("\nvariants   *_{} of the stages that touch the cache\n", facts.cache_variant);
    for (const VariantChoice& v : facts.variants)
        text += fmt::format("           {}, not {}: {}\n", v.chosen, v.refused, v.reason);
    return text;
}

json device_json(const DeviceInfo& device) {
    const DriverName driver = split_driver(device.driver);
    return {{"index", device.index},
            {"name", device.name},
            {"type", device_type_name(device.type)},
            {"driver", driver.name},
            {"driver_version", driver.version},
            {"api_version", version_text(device.api_version)},
            {"vendor_id", device.vendor_id},
            {"uuid", device.uuid},
            {"subgroup_size", device.subgroup_size},
            {"memory_bytes", device.memory_bytes},
            {"unusable_reason", device.unusable_reason}};
}

json device_json(const DeviceFacts& facts) {
    json device = device_json(facts.info);
    device["features"] = facts.present;
    device["missing_features"] = facts.missing;
    device["cache_variant"] = facts.cache_variant;
    for (const VariantChoice& v : facts.variants)
        device["variants"].push_back(
            {{"stage", v.stage}, {"chosen", v.chosen}, {"refused", v.refused}, {"reason", v.reason}});
    return device;
}

json model_json(const Subject& subject, const ModelShape& shape) {
    const ModelFacts& facts = subject.facts;
    return {{"file", subject.file},
            {"name", facts.name},
            {"type", facts.type},
            {"architecture", shape.architecture},
            {"quantisation", facts.quantisation},
            {"file_bytes", subject.file_bytes},
            {"tensor_bytes", facts.tensor_bytes},
            {"n_params", facts.n_params},
            {"n_layers", shape.n_layers},
            {"n_embd", shape.n_embd},
            {"n_ff", shape.n_ff},
            {"n_heads", shape.n_heads},
            {"n_kv_heads", shape.n_kv_heads},
            {"head_dim", shape.head_dim},
            {"n_vocab", shape.n_vocab},
            {"n_ctx_train", shape.n_ctx_train}};
}

std::uint32_t n_windowed_layers(const ModelShape& shape) {
    std::uint32_t n = 0;
    for (const LayerShape& layer : shape.layers) n += layer.window != 0 ? 1 : 0;
    return n;
}

// Of what dense attention keeps in f16 for as many tokens.
double kv_share(const Plan& plan) {
    return static_cast<double>(plan.memory.kv_bytes) / static_cast<double>(plan.dense_f16_bytes);
}

std::string plan_text(const Subject& subject, const Plan& plan, KvType kv) {
    const ModelFacts& facts = subject.facts;
    const ModelShape& shape = plan.shape;
    const std::uint64_t per_token = kv_step_bytes(shape, kv, 1);
    std::string text;
    text += fmt::format("model      {} ({})\n", facts.name, facts.type);
    if (subject.file.empty()) {
        text += fmt::format("weights    {}, {} parameters, not loaded\n", size_text(facts.tensor_bytes),
                            params_text(facts.n_params));
    } else {
        text += fmt::format("file       {}, {}, {} parameters\n", subject.file, size_text(subject.file_bytes),
                            params_text(facts.n_params));
    }
    text += fmt::format("layers     {}, {} of them with a window\n", shape.n_layers, n_windowed_layers(shape));
    text += fmt::format(
        "shape      embedding {}, feed-forward {}, heads {} ({} for keys and values) of {}, "
        "vocabulary {}\n",
        shape.n_embd, shape.n_ff, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.n_vocab);
    text += fmt::format("device     {}\n", device_line(plan.device.info));
    text += features_and_variants(plan.device);
    if (plan.card_bytes != 0)
        text += fmt::format("card       {}: what follows is for a GPU of that size, not for the device above\n",
                            size_text(plan.card_bytes));
    text += fmt::format("context    {} tokens (trained for {}), {} bytes of keys and values for each\n", plan.n_ctx,
                        shape.n_ctx_train, per_token);
    text += fmt::format("memory     {}: weights {}, cache {}, index {}, scratch {} (prefill by {} tokens)\n",
                        size_text(plan.memory.total_bytes()), size_text(plan.memory.weight_bytes),
                        size_text(plan.memory.kv_bytes), size_text(plan.memory.index_bytes),
                        size_text(plan.memory.scratch_bytes), plan.n_chunk);
    if (plan.cache.ring_bytes != 0)
        text += fmt::format("           the cache: full heads {}, rings {}, tables {}{}\n",
                            size_text(plan.cache.full_bytes), size_text(plan.cache.ring_bytes),
                            size_text(plan.cache.table_bytes),
                            plan.cache.sum_bytes != 0 ? ", sums " + size_text(plan.cache.sum_bytes) : "");
    if (plan.full_share < 1)
        text += fmt::format("heads      {:.0f} % of the kv heads keep every token{}\n", 100 * plan.full_share,
                            plan.share_assumed ? " (assumed)" : "");
    text += fmt::format("cache      {:.1f} % of dense attention in f16\n", 100 * kv_share(plan));
    if (!plan.fits) text += "           more than this device offers\n";
    if (plan.beyond_driver)
        text += fmt::format("           a software driver can do {} tokens at most\n", vk::kSoftwareMaxContext);
    if (plan.n_dependent_dispatches == 0) return text;
    text += fmt::format("step       {} dependent dispatches, {:.1f} per layer\n", plan.n_dependent_dispatches,
                        static_cast<double>(plan.n_dependent_dispatches) / shape.n_layers);
    return text;
}

// The presets as data: what each scores, keeps and reuses, and the paper it follows.
std::string policies_text() {
    std::vector<std::array<std::string_view, 6>> rows = {{"name", "scorer", "filter", "budget", "paper", "schedule"}};
    for (const PresetInfo& p : sparse_presets())
        rows.push_back({p.name, p.scorer, p.filter, p.budget, p.paper, p.schedule});
    std::string text;
    std::array<std::size_t, 5> widths{};  // the last column may be as long as it is
    for (const auto& row : rows)
        for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < widths.size(); ++i) text += fmt::format("{:<{}}", row[i], widths[i] + 2);
        text += fmt::format("{}\n", row.back());
    }
    return text;
}

void write_json(const json& root) { write_out(root.dump(2, ' ', false, json::error_handler_t::replace) + "\n"); }

json policies_json() {
    json list = json::array();
    for (const PresetInfo& p : sparse_presets())
        list.push_back({{"name", p.name},
                        {"scorer", p.scorer},
                        {"filter", p.filter},
                        {"budget", p.budget},
                        {"schedule", p.schedule},
                        {"paper", p.paper}});
    return list;
}

// Every device with its features; the cache is of -ctk.
int describe_devices(const Options& options) {
    std::string text = "Devices:\n";
    json devices = json::array();
    for (const DeviceInfo& info : need_devices(options)) {
        text += "  " + device_line(info) + "\n";
        if (!info.unusable_reason.empty()) {
            devices.push_back(device_json(info));
            continue;
        }
        DeviceOptions one;
        one.select = std::to_string(info.index);
        const DeviceFacts facts = device_facts(*vk::Device::open(one), kv_type(options), {}, 0);
        devices.push_back(device_json(facts));
        text += features_and_variants(facts);
    }
    if (options.json) write_json({{"devices", devices}});
    else write_out(text);
    return 0;
}

}  // namespace

int list_devices_command(const Options& options) {
    std::string text = "Devices:\n";
    for (const DeviceInfo& device : need_devices(options)) text += "  " + device_line(device) + "\n";
    write_out(text);
    return 0;
}

int run_info(const Options& options) {
    if (options.policies) {
        if (options.json) write_json(policies_json());
        else write_out(policies_text());
        return 0;
    }
    if (options.model.empty() && options.shape.empty()) {
        return describe_devices(options);
    }
    Subject subject;
    Plan plan;
    if (!options.shape.empty()) {
        const ModelSource model = open_shape(options, false);
        subject.facts = model_facts(model, "random " + options.shape);
        plan = make_plan(options, model);
    } else {
        const Vocabulary vocabulary = open_vocabulary(options);
        subject = {vocabulary.path.string(), vocabulary.file.file_bytes(), model_facts(vocabulary.file)};
        plan = options.fit.empty() ? make_plan(options, vocabulary)
                                   : make_plan(options, open_model(vocabulary.path.string()));
    }
    if (!options.json) {
        write_out(printable(plan_text(subject, plan, kv_type(options))));
        return 0;
    }
    json root = {{"total_bytes", plan.memory.total_bytes()},
                 {"weight_bytes", plan.memory.weight_bytes},
                 {"kv_bytes", plan.memory.kv_bytes},
                 {"kv_full_bytes", plan.cache.full_bytes},
                 {"kv_ring_bytes", plan.cache.ring_bytes},
                 {"kv_table_bytes", plan.cache.table_bytes},
                 {"kv_sum_bytes", plan.cache.sum_bytes},
                 {"index_bytes", plan.memory.index_bytes},
                 {"scratch_bytes", plan.memory.scratch_bytes},
                 {"fits", plan.fits},
                 {"kv_share", kv_share(plan)},
                 {"retrieval_share", plan.full_share},
                 {"retrieval_share_assumed", plan.share_assumed},
                 {"n_ctx", plan.n_ctx},
                 {"n_chunk", plan.n_chunk},
                 {"type_k", options.cache_type_k},
                 {"type_v", options.cache_type_v},
                 {"sparse", options.sparse.preset},
                 {"device", device_json(plan.device)},
                 {"model", model_json(subject, plan.shape)},
                 {"version", version().text}};
    if (plan.n_dependent_dispatches != 0) root["n_dependent_dispatches"] = plan.n_dependent_dispatches;
    write_json(root);
    return 0;
}

}  // namespace winnow::program
