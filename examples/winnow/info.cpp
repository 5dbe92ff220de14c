// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "examples/winnow/commands.h"
#include "examples/winnow/engine.h"
#include "examples/winnow/model_facts.h"
#include "examples/winnow/terminal.h"

namespace winnow::program {
namespace {

using nlohmann::json;

// What a context costs on the chosen device.
struct Plan {
    DeviceInfo device;
    ModelShape shape;
    MemoryPlan memory;
    std::uint32_t n_ctx = 0;
    std::uint32_t n_dependent_dispatches = 0;
};

// The one place that loads the model for this; the number of dispatches is that of a step really
// recorded.
Plan make_plan(const Options& options, const Vocabulary& vocabulary) {
    const std::unique_ptr<Session> session =
        open_session(options, vocabulary, context_size(options, 0));
    return {session->device(), session->shape(), session->memory(), session->n_ctx(),
            session->n_dependent_dispatches()};
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
            {"subgroup_size", device.subgroup_size},
            {"memory_bytes", device.memory_bytes},
            {"unusable_reason", device.unusable_reason}};
}

json model_json(const Vocabulary& vocabulary, const ModelFacts& facts, const ModelShape& shape) {
    return {{"file", vocabulary.path.string()},
            {"name", facts.name},
            {"type", facts.type},
            {"architecture", shape.architecture},
            {"quantisation", facts.quantisation},
            {"file_bytes", vocabulary.file.file_bytes()},
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

std::string plan_text(const Vocabulary& vocabulary, const ModelFacts& facts, const Plan& plan,
                      KvType kv) {
    const ModelShape& shape = plan.shape;
    const std::uint64_t per_token = kv_step_bytes(shape, kv, 1);
    std::string text;
    text += fmt::format("model      {} ({})\n", facts.name, facts.type);
    text += fmt::format("file       {}, {}, {} parameters\n", vocabulary.path.string(),
                        size_text(vocabulary.file.file_bytes()), params_text(facts.n_params));
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
    text += fmt::format("step       {} dependent dispatches, {:.1f} per layer\n",
                        plan.n_dependent_dispatches,
                        static_cast<double>(plan.n_dependent_dispatches) / shape.n_layers);
    return text;
}

}  // namespace

int list_devices_command() {
    std::string text = "Devices:\n";
    for (const DeviceInfo& device : need_devices()) text += "  " + device_line(device) + "\n";
    write_out(text);
    return 0;
}

int run_info(const Options& options) {
    if (options.model.empty() && !options.json) return list_devices_command();
    json root;
    if (options.model.empty()) {
        root["devices"] = json::array();
        for (const DeviceInfo& device : need_devices())
            root["devices"].push_back(device_json(device));
        write_out(root.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
        return 0;
    }
    const Vocabulary vocabulary = open_vocabulary(options);
    const ModelFacts facts = model_facts(vocabulary.file);
    const Plan plan = make_plan(options, vocabulary);
    if (!options.json) {
        write_out(plan_text(vocabulary, facts, plan, kv_type(options)));
        return 0;
    }
    root = {{"total_bytes", plan.memory.total_bytes()},
            {"weight_bytes", plan.memory.weight_bytes},
            {"kv_bytes", plan.memory.kv_bytes},
            {"index_bytes", plan.memory.index_bytes},
            {"scratch_bytes", plan.memory.scratch_bytes},
            {"n_ctx", plan.n_ctx},
            {"type_k", options.cache_type_k},
            {"type_v", options.cache_type_v},
            {"n_dependent_dispatches", plan.n_dependent_dispatches},
            {"device", device_json(plan.device)},
            {"model", model_json(vocabulary, facts, plan.shape)},
            {"version", WINNOW_VERSION}};
    write_out(root.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    return 0;
}

}  // namespace winnow::program
