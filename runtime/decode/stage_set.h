// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "runtime/vk/device.h"

namespace winnow {

/// One stage object per distinct configuration; layers of the same kind share it.
template <typename Stage>
class StageSet {
public:
    const Stage& get(vk::Device& device, const typename Stage::Config& config) {
        for (const auto& [known, stage] : stages_)
            if (known == config) return *stage;
        stages_.emplace_back(config, std::make_unique<Stage>(device, config));
        return *stages_.back().second;
    }

private:
    std::vector<std::pair<typename Stage::Config, std::unique_ptr<Stage>>> stages_;
};

}  // namespace winnow
