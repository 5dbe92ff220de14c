// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/select_attend.h"

#include <algorithm>

namespace winnow::reference {

Attended select_attend(const SelectView& view, const std::vector<std::vector<std::uint32_t>>& units, std::uint32_t unit,
                       double value_skip) {
    const std::uint32_t end = view.middle_end();
    std::vector<std::vector<std::uint32_t>> tokens;
    for (std::size_t h = 0; h < view.cache.heads.size(); ++h) {
        std::vector<std::uint32_t> list;
        for (const std::uint32_t u : units[h])
            for (std::uint32_t t = std::max(u * unit, view.sinks); t < std::min((u + 1) * unit, end); ++t)
                list.push_back(t);
        tokens.push_back(
            attended_tokens(view.cache.heads[h], {view.sinks, view.window, false, list, end}, view.position));
    }
    return attend_sparse(view.query, view.cache, tokens, value_skip);
}

}  // namespace winnow::reference
