// SPDX-License-Identifier: Apache-2.0
#include "runtime/decode/finite.h"

#include <cmath>

#include "winnow/error.h"

namespace winnow {

void throw_not_finite() {
    throw Error(ErrorCode::kBadFile,
                "the model gives numbers that are not finite: its file is probably damaged; download it again");
}

void check_finite(std::span<const float> logits) {
    bool finite = true;
    for (const float x : logits) finite &= std::isfinite(x);
    if (!finite) throw_not_finite();
}

}  // namespace winnow
