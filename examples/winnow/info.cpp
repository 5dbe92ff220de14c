// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/model_facts.h"
#include "examples/winnow/terminal.h"
#include "models/model.h"
#include "runtime/vk/device.h"

namespace winnow::program {
namespace {

using nlohmann::json;

// What a context costs on the chosen device.
struct Plan {
    DeviceInfo device;
    ModelShape shape;
    MemoryPlan memory;
    std::uint32_t n_ctx = 0;
    std::uint32_t n_dependent_dispatches = 0;  ///< 0 = not known: no step was recorded
    bool fits = true;                          ///< into the device
    std::uint64_t dense_f16_bytes = 0;         ///< keys and values of dense attention in f16
    float full_share = 1;                      ///< kv heads that keep every token
    bool share_assumed = false;                ///< nothing is known of the model's heads
};

// What the plan is for: a file, or a shape that has none.
struct Subject {
    std::string file;  ///< empty without one
    std::uint64_t file_bytes = 0;
    ModelFacts facts;
};

// Sizes alone: nothing is loaded or allocated.
Plan make_plan(const Options& options, const ModelSource& model) {
    SessionOptions session = session_options(options, context_size(options, 0));
    assume_share(options, model.shape, session);
    const std::unique_ptr<vk::Device> device = vk::Device::open(session.device);
    const std::uint64_t card_bytes =
        options.fit.empty() || options.fit == "device" ? 0 : parse_size(options.fit, "--fit");
    const ResolvedOptions resolved = options.fit.empty()
                                         ? plan_session(*device, model, session, false)
                                         : fit_session(*device, model, session, card_bytes);
    return {device->info(),
            model.shape,
            resolved.memory,
            resolved.n_ctx,
            0,
            resolved.fits,
            resolved.dense_f16_bytes,
            resolved.full_share,
            model.file == nullptr && resolved.full_share < 1 &&
                uses_calibration(options.sparse.preset)};
}

// The one place that loads the model for this; the number of dispatches is that of a step really
// recorded.
Plan make_plan(const Options& options, const Vocabulary& vocabulary) {
    Plan plan = make_plan(options, open_model(vocabulary.path.string()));
    const std::unique_ptr<Session> session =
        open_session(options, vocabulary, context_size(options, 0));
    plan.memory = session->memory();
    plan.n_ctx = session->n_ctx();
    plan.n_dependent_dispatches = session->n_dependent_dispatches();
    plan.fits = true;
    return plan;
}

std::vector<DeviceInfo> need_devices() {
    std::vector<DeviceInfo> devices = list_devices();
    if (devices.empty()) {
        throw Error(ErrorCode::kNoDevice,
                    "no Vulkan device: install a driver (mesa-vulkan-drivers has one for CPUs)");
    }
    return devices;
}

std::string device_line(const DeviceInfo& device) {
    std::string line =
        fmt::format("{}: {} ({}, {}, Vulkan {}, {}, subgroup {})", device.index, device.name,
                    device_type_name(device.type), size_text(device.memory_bytes),
                    version_text(device.api_version), device.driver, device.subgroup_size);
    if (!device.unusable_reason.empty()) line += " - not usable: " + device.unusable_reason;
    return line;
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
        text += fmt::format("weights    {}, {} parameters, not loaded\n",
                            size_text(facts.tensor_bytes), params_text(facts.n_params));
    } else {
        text += fmt::format("file       {}, {}, {} parameters\n", subject.file,
                            size_text(subject.file_bytes), params_text(facts.n_params));
    }
    text += fmt::format("layers     {}, {} of them with a window\n", shape.n_layers,
                        n_windowed_layers(shape));
    text += fmt::format(
        "shape      embedding {}, feed-forward {}, heads {} ({} for keys and values) of {}, "
        "vocabulary {}\n",
        shape.n_embd, shape.n_ff, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.n_vocab);
    text += fmt::format("device     {}\n", device_line(plan.device));
    text +=
        fmt::format("context    {} tokens (trained for {}), {} bytes of keys and values for each\n",
                    plan.n_ctx, shape.n_ctx_train, per_token);
    text += fmt::format("memory     {}: weights {}, cache {}, index {}, scratch {}\n",
                        size_text(plan.memory.total_bytes()), size_text(plan.memory.weight_bytes),
                        size_text(plan.memory.kv_bytes), size_text(plan.memory.index_bytes),
                        size_text(plan.memory.scratch_bytes));
    if (plan.full_share < 1)
        text += fmt::format("heads      {:.0f} % of the kv heads keep every token{}\n",
                            100 * plan.full_share, plan.share_assumed ? " (assumed)" : "");
    text += fmt::format("cache      {:.1f} % of dense attention in f16\n", 100 * kv_share(plan));
    if (!plan.fits) text += "           more than this device offers\n";
    if (plan.n_dependent_dispatches == 0) return text;
    text += fmt::format("step       {} dependent dispatches, {:.1f} per layer\n",
                        plan.n_dependent_dispatches,
                        static_cast<double>(plan.n_dependent_dispatches) / shape.n_layers);
    return text;
}

// The presets as data: what each scores, keeps and reuses, and the paper it follows.
std::string policies_text() {
    std::string text = fmt::format("{:<12} {:<28} {:<26} {:<58} {:<50} {}\n", "name", "scorer",
                                   "filter", "budget", "schedule", "paper");
    for (const PresetInfo& p : sparse_presets())
        text += fmt::format("{:<12} {:<28} {:<26} {:<58} {:<50} {}\n", p.name, p.scorer, p.filter,
                            p.budget, p.schedule, p.paper);
    return text;
}

void write_json(const json& root) {
    write_out(root.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

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

}  // namespace

int list_devices_command() {
    std::string text = "Devices:\n";
    for (const DeviceInfo& device : need_devices()) text += "  " + device_line(device) + "\n";
    write_out(text);
    return 0;
}

int run_info(const Options& options) {
    if (options.policies) {
        if (options.json)
            write_json(policies_json());
        else
            write_out(policies_text());
        return 0;
    }
    if (options.model.empty() && options.shape.empty()) {
        if (!options.json) return list_devices_command();
        json devices = json::array();
        for (const DeviceInfo& device : need_devices()) devices.push_back(device_json(device));
        write_json({{"devices", devices}});
        return 0;
    }
    Subject subject;
    Plan plan;
    if (!options.shape.empty()) {
        const ModelSource model = open_shape(options, false);
        subject.facts = model_facts(model, "random " + options.shape);
        plan = make_plan(options, model);
    } else {
        const Vocabulary vocabulary = open_vocabulary(options);
        subject = {vocabulary.path.string(), vocabulary.file.file_bytes(),
                   model_facts(vocabulary.file)};
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
                 {"index_bytes", plan.memory.index_bytes},
                 {"scratch_bytes", plan.memory.scratch_bytes},
                 {"fits", plan.fits},
                 {"kv_share", kv_share(plan)},
                 {"retrieval_share", plan.full_share},
                 {"retrieval_share_assumed", plan.share_assumed},
                 {"n_ctx", plan.n_ctx},
                 {"type_k", options.cache_type_k},
                 {"type_v", options.cache_type_v},
                 {"sparse", options.sparse.preset},
                 {"device", device_json(plan.device)},
                 {"model", model_json(subject, plan.shape)},
                 {"version", WINNOW_VERSION}};
    if (plan.n_dependent_dispatches != 0)
        root["n_dependent_dispatches"] = plan.n_dependent_dispatches;
    write_json(root);
    return 0;
}

}  // namespace winnow::program
