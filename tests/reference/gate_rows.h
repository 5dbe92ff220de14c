// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <span>

#include "tests/reference/matvec.h"
#include "winnow/types.h"

namespace winnow::reference {

/// act(gate) * up of each row: `gate_up` [n_tokens, 2, n_ff] gives [n_tokens, n_ff]. Terms: an exponential errs in
/// proportion to its argument.
Values gate_rows(std::span<const float> gate_up, std::size_t n_ff, Activation activation);

}  // namespace winnow::reference
