// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "bench/support/gpu_bench.h"
#include "runtime/vk/shader_registry.h"

namespace winnow::bench {

/// Those of the shader variants that this build has and the device can run.
inline std::vector<std::string> available_variants(std::initializer_list<const char*> names) {
    std::vector<std::string> list;
    for (const char* name : names)
        for (const vk::ShaderVariant& v : vk::all_shaders())
            if (v.name == name && Bench::get().device().features().includes(v.features)) list.emplace_back(name);
    return list;
}

/// Makes a stage in the given variant.
template <typename Stage>
Stage make_variant(const std::string& variant, const typename Stage::Config& config) {
    setenv("WINNOW_FORCE_VARIANT", variant.c_str(), 1);
    Stage stage(Bench::get().device(), config);
    unsetenv("WINNOW_FORCE_VARIANT");
    return stage;
}

/// Times a dispatch of anything from microseconds to seconds, for benches of one iteration.
inline void run_flops(benchmark::State& state, double flops, std::uint64_t bytes,
                      const std::function<void(vk::Recorder&, std::uint32_t)>& record,
                      const std::function<std::string()>& check = {}) {
    Bench& b = Bench::get();
    if (check && !b.is_right(state, record, check)) return;
    double microseconds = b.best_of(1, 1, record);
    const auto n = static_cast<std::uint32_t>(std::min(std::max(20e3 / microseconds, 1.0), 200.0));
    for ([[maybe_unused]] auto _ : state) {
        if (n > 1) microseconds = b.best_of(5, n, record);
        state.SetIterationTime(microseconds * 1e-6);
    }
    state.counters["TFLOP/s"] = flops / microseconds * 1e-6;
    state.counters["bytes_per_second"] = static_cast<double>(bytes) / (microseconds * 1e-6);
}

}  // namespace winnow::bench
